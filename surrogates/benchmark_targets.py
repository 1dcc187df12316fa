"""Which metrics there are on which devices, and which of them a query asks for. No torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from hw_profiles.table import ANY_DEVICE, METRICS
from surrogates.campaign import TargetKey

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "latency": "latency_ms",
        "energy": "energy_mj",
        "host_energy": "host_energy_mj",
        "memory": "memory_mib",
        "params": "n_params",
        "decoder_params": "n_params_decoder",
        "ppl": "perplexity",
    }
)
Names = str | Iterable[str] | None


class TargetList:
    """The targets of a benchmark, in the order of its columns.

    Args:
        targets: distinct; those without a device have ANY_DEVICE.
    """

    def __init__(self, targets: Sequence[TargetKey]) -> None:
        self.targets = tuple(targets)
        self._index = {target: i for i, target in enumerate(self.targets)}
        self.metrics = tuple(dict.fromkeys(target.metric for target in self.targets))
        self.devices = tuple(dict.fromkeys(t.device for t in self.targets if t.device != ANY_DEVICE))

    def __len__(self) -> int:
        return len(self.targets)

    def select(self, metrics: Names, devices: Names) -> tuple[int, ...]:
        """Return the indices of the targets that a query asks for, in the order it asks.

        Args:
            metrics: names or short names; None for all.
            devices: names; None for all. Metrics that depend on no device are there whatever the devices.

        Raises:
            KeyError: an unknown name; near matches and all names are given.
            ValueError: a metric that was asked for by name together with a device that lacks it; no name at all.
        """
        wanted_devices = self.devices if devices is None else [self.device(name) for name in _names(devices, "device")]
        if metrics is None:
            rows = self._existing(self.metrics, wanted_devices)
        else:
            wanted = list(dict.fromkeys(self.metric(name) for name in _names(metrics, "metric")))
            if devices is not None:
                self._check_measured(wanted, wanted_devices)
            rows = self._existing(wanted, wanted_devices)
        return tuple(rows)

    def index(self, metric: str, device: str | None = None) -> int:
        """Return the index of one target; the device may be left out where there is only one.

        Raises:
            KeyError: an unknown name.
            ValueError: the device lacks the metric, or is missing and there are several.
        """
        found = self.select([metric], None if device is None else [device])
        if len(found) != 1:
            devices = [self.targets[i].device for i in found]
            raise ValueError(f"{self.metric(metric)} needs a device: ({metric!r}, <one of {', '.join(devices)}>)")
        return found[0]

    def metric(self, name: str) -> str:
        """Return the full name of a metric."""
        full = ALIASES.get(name, name)
        if full not in self.metrics:
            shorts = [short for short, long in ALIASES.items() if long in self.metrics]
            raise KeyError(_unknown("metric", name, [*self.metrics, *shorts]))
        return full

    def device(self, name: str) -> str:
        """Return the name of a device, checked."""
        if name not in self.devices and name != ANY_DEVICE:
            raise KeyError(_unknown("device", name, [*self.devices, ANY_DEVICE]))
        return name

    def devices_of(self, metric: str) -> tuple[str, ...]:
        """Return where a metric was measured."""
        return tuple(target.device for target in self.targets if target.metric == metric)

    def _existing(self, metrics: Iterable[str], devices: Iterable[str]) -> list[int]:
        places = [*dict.fromkeys(device for device in devices if device != ANY_DEVICE), ANY_DEVICE]
        keys = (TargetKey(metric, device) for metric in metrics for device in places)
        return [self._index[key] for key in keys if key in self._index]

    def _check_measured(self, metrics: Iterable[str], devices: Iterable[str]) -> None:
        for metric in metrics:
            known = self.devices_of(metric)
            missing = [device for device in devices if device not in known]
            if METRICS[metric].per_device and missing:
                raise ValueError(
                    f"there is no {metric} of {', '.join(missing)}; devices that have it: {', '.join(known)}"
                )


def _names(given: str | Iterable[str], kind: str) -> list[str]:
    names = [given] if isinstance(given, str) else list(given)
    if not names:
        raise ValueError(f"no {kind} given: give at least one, or None for all")
    return names


def _unknown(kind: str, name: str, known: Sequence[str]) -> str:
    lower = {text.lower(): text for text in known}
    near = [lower[text] for text in difflib.get_close_matches(str(name).lower(), lower, n=3, cutoff=0.5)]
    hint = f"; near matches: {', '.join(near)}" if near else ""
    return f"no {kind} {name!r}{hint}; {kind}s: {', '.join(known)}"
