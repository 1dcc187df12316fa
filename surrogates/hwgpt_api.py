"""HW-GPT-Bench's `HWGPT`, answered by the shipped surrogates: change one import and old code runs. No torch.

    from surrogates.hwgpt_api import HWGPT          # was: from hwgpt.api import HWGPT
    api = HWGPT(search_space="s")
    api.set_arch(api.sample_arch())
    api.query(metric="latencies", device="a100")    # {"latencies": {"a100": ...}}

For new code use `surrogates.Benchmark`. What is the same: names of metrics and devices ("P100"), the forms of
architectures and results, and units: latencies in ms, energies in Wh, memory in MB of 1e6 bytes. What differs:

* Answers are medians and the same each time; upstream draws from the predicted distribution without a seed.
* Nothing is downloaded or unpickled, so `base_path` is not used. There is no hidden state but `set_arch`.
* `sample_arch` takes an rng, for samples that can be repeated. `sample_bias` is a bool; "True" and "False" are read.
* Perplexity (and accuracy) of either predictor is a surrogate of the supernet's measured values: no supernet is run.
* `params` are those that the published profiles counted; `flops` are twice the exact multiply-adds of one sequence of
  1024 tokens, attention scores included. Upstream estimates FLOPs as 2 x parameters x tokens and an attention term.
* An architecture outside the space, an unknown metric or device is an error that names what is allowed.
* Not here: `create_model` (see `supernet.extract`) and the tables of measurements (see `paretolm import`).
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np

from hw_profiles.importers.hwgpt_devices import MIB_PER_MB, MJ_PER_WH, SCALES
from hw_profiles.importers.hwgpt_protocol import architecture_from_hwgpt, hwgpt_from_architecture
from surrogates.benchmark import Benchmark

_PER_DEVICE: Mapping[str, tuple[str, float]] = MappingProxyType(  # metric of ours, and how much of it is one of theirs
    {"latencies": ("latency_ms", 1.0), "energies": ("energy_mj", MJ_PER_WH)}
)
_SINGLE: Mapping[str, tuple[str, str, float]] = MappingProxyType(
    {
        "float16_memory": ("memory_mib", "rtx2080", MIB_PER_MB),
        "bfloat16_memory": ("memory_mib", "a100", MIB_PER_MB),
        "flops": ("flops", "any", 1.0),
        "params": ("n_params", "any", 1.0),
        "perplexity": ("perplexity", "any", 1.0),
        "accuracy": ("accuracy", "any", 1.0),
    }
)
_RENAMED = {"P100": "p100"}
METRICS = (*_PER_DEVICE, *_SINGLE)
PREDICTORS = ("mlp", "supernet")
DEVICES = (
    "a100", "a40", "h100", "rtx2080", "rtx3080", "a6000", "v100", "P100", "cpu_xeon_silver", "cpu_xeon_gold",
    "cpu_amd_7502", "cpu_amd_7513", "cpu_amd_7452",
)  # fmt: skip


class HWGPT:
    """The published API over `Benchmark`; see the top of this file.

    Args:
        search_space: "s", "m" or "l".
        use_supernet_surrogate: there is no supernet here: True gives the same answers, and a warning.
        base_path: not used; upstream's data folder.

    Attributes:
        config: the architecture of `set_arch`, None before.
        search_space: choices by upstream's names.
        search_space_name: "s", "m" or "l".
        device_list: the 13 published devices.
        hw_metrics_surrogate: metrics of a device.
        hw_metrics_true: metrics without a device that are not of quality.
        metrics: metrics of quality.
        cfg_model: `cfg_model.model` has the choices again, as upstream's configuration files do.
        benchmark: what answers.
    """

    def __init__(
        self, search_space: str, use_supernet_surrogate: bool = False, base_path: str | Path | None = None
    ) -> None:
        if search_space not in SCALES:
            raise ValueError(f"search_space = {search_space!r}; measured are {', '.join(SCALES)}")
        if use_supernet_surrogate:
            warnings.warn("no supernet is run: perplexity is a surrogate of its measured values", stacklevel=2)
        self.benchmark = Benchmark(f"gpt-{search_space}")
        self.search_space_name = search_space
        self.use_supernet_surrogate = use_supernet_surrogate
        self.config: dict[str, Any] | None = None
        self.device_list = list(DEVICES)
        self.hw_metrics_surrogate = list(_PER_DEVICE)
        self.hw_metrics_true = ["flops", "params", "float16_memory", "bfloat16_memory"]
        self.metrics = ["perplexity", "accuracy"]
        space = self.benchmark.space
        self.search_space = {
            "embed_dim_choices": list(space.n_embd),
            "n_layer_choices": list(space.n_layer),
            "mlp_ratio_choices": list(space.mlp_ratio or ()),
            "n_head_choices": list(space.n_head),
            "bias_choices": list(reversed(space.bias_choices)),
        }
        self.cfg_model = SimpleNamespace(
            model=SimpleNamespace(
                embed_choices=list(space.n_embd), layer_choices=list(space.n_layer), head_choices=list(space.n_head),
                mlp_ratio_choices=list(space.mlp_ratio or ()), bias_choices=list(reversed(space.bias_choices)),
            )
        )  # fmt: skip

    # --- the architecture ---------------------------------------------------------------------------------------------

    def sample_arch(self, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Return a random architecture as upstream's dict; without an rng it cannot be repeated."""
        return hwgpt_from_architecture(self.benchmark.space.sample(rng or np.random.default_rng()))

    def sample_random_arch(self, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Sample an architecture, set it and return it."""
        self.set_arch(self.sample_arch(rng))
        assert self.config is not None
        return self.config

    def set_arch(self, config: Mapping[str, Any]) -> None:
        """Choose the architecture that is asked about.

        Args:
            config: `sample_embed_dim`, `sample_n_layer`, `sample_mlp_ratio`, `sample_n_head`, `sample_bias`.

        Raises:
            ValueError: it is not in the space; says what is allowed.
        """
        architecture_from_hwgpt(config, scale=self.search_space_name)
        self.config = dict(config)

    # --- questions ----------------------------------------------------------------------------------------------------

    def query(
        self, device: str | Sequence[str] | None = None, metric: str | Sequence[str] | None = None,
        predictor: str = "mlp",
    ) -> dict[str, Any]:  # fmt: skip
        """Return metrics of the architecture of `set_arch`.

        Args:
            device: one or several; None for the 13 published ones. With a device and no metric, only metrics of
                devices are returned.
            metric: one or several of latencies, energies, float16_memory, bfloat16_memory, flops, params, perplexity,
                accuracy; None for all.
            predictor: "mlp" or "supernet"; both give the same here.

        Returns:
            {"latencies": {device: ms}, "energies": {device: Wh}, "float16_memory": MB, "bfloat16_memory": MB,
            "flops": count, "params": count, "perplexity": number, "accuracy": share}, or those asked for.

        Raises:
            KeyError: an unknown metric or device; near matches and all names are given.
            ValueError: no architecture was set, or an unknown predictor.
        """
        if self.config is None:
            raise ValueError("no architecture is set: call set_arch(config) before query()")
        if predictor not in PREDICTORS:
            raise ValueError(f"predictor = {predictor!r}; allowed: {', '.join(PREDICTORS)}")
        if device is None:
            devices = self.device_list
        else:
            devices = [_checked(name, self._devices, "device") for name in _list(device)]
        names = _list(metric) if metric is not None else [*_PER_DEVICE, *(_SINGLE if device is None else ())]
        value = self._values(self.config)
        return {name: self._answer(_checked(name, METRICS, "metric"), devices, value) for name in names}

    def compute_predictions_ppl(self) -> float:
        """Return the perplexity."""
        return float(self.query(metric="perplexity")["perplexity"])

    def compute_predictions_hw(self, hw_metric: str, device: str) -> float:
        """Return "latencies" or "energies" of one device."""
        return float(self.query(device=device, metric=hw_metric)[hw_metric][device])

    def get_flops(self) -> int:
        """Return the exact FLOPs of one sequence."""
        return int(self.query(metric="flops")["flops"])

    def get_params(self) -> int:
        """Return the exact number of parameters."""
        return int(self.query(metric="params")["params"])

    def get_memory(self, objective: str) -> float:
        """Return "float16_memory" or "bfloat16_memory" in MB."""
        return float(self.query(metric=objective)[objective])

    @property
    def _devices(self) -> list[str]:
        """All names that may be asked for: ours, and upstream's where they differ."""
        return [*self.benchmark.columns("latency").index.get_level_values("device"), *_RENAMED]

    def _values(self, config: Mapping[str, Any]) -> Callable[[str, str], float]:
        """Return a function of our metric and device."""
        values = self.benchmark.query(config, out="numpy")[0]
        places = {tuple(target): i for i, target in enumerate(self.benchmark.columns().targets)}
        return lambda metric, device: float(values[places[metric, device]])

    def _answer(self, name: str, devices: Sequence[str], value: Callable[[str, str], float]) -> Any:
        """Return one of upstream's metrics, in its unit."""
        if name in _SINGLE:
            metric, place, unit = _SINGLE[name]
            number = value(metric, place) / unit
            return int(number) if name in ("flops", "params") else number
        metric, unit = _PER_DEVICE[name]
        ours = [_RENAMED.get(device, device) for device in devices]
        self.benchmark.columns(metric, ours)  # raises where a device lacks it
        return {device: value(metric, known) / unit for device, known in zip(devices, ours, strict=True)}


def _list(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _checked(name: str, known: Sequence[str], kind: str) -> str:
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.4)
        raise KeyError(f"no {kind} {name!r}; near matches: {', '.join(near) or 'none'}; {kind}s: {', '.join(known)}")
    return name
