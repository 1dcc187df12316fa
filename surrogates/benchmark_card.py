"""What a benchmark knows about itself: devices, metrics, scores and protocol, from the cards of its files. No torch."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hw_profiles.device import Workload
from hw_profiles.importers.hwgpt_devices import DEVICES
from hw_profiles.table import ANY_DEVICE, METRICS
from surrogates.campaign import TargetKey
from surrogates.exact_costs import EXACT_METRICS
from surrogates.query_frame import WIDTH, aligned

if TYPE_CHECKING:
    import pandas as pd

_SCORES = ("n", "r2", "kendall", "spearman", "mape", "within_5", "within_10", "kendall_within_width")
_TABLE = ("n_train", "n", "r2", "kendall", "kendall_within_width", "mape", "coverage90", "width90")


@dataclass(frozen=True)
class TargetCard:
    """What is known about one surrogate.

    Attributes:
        target: metric and device.
        workload: id of the input it was measured with.
        protocol: how it was measured, in words.
        n_train: architectures it was fitted to.
        scores: on architectures it was not fitted to: numbers by name.
        winner: name of the model that was chosen.
        noise: whether repeats were measured, so that noise can be drawn.
        hardware: what the device is, in words; empty for the shipped ones.
    """

    target: TargetKey
    workload: str
    protocol: str
    n_train: int
    scores: Mapping[str, float]
    winner: str = ""
    noise: bool = False
    hardware: str = ""

    def record(self) -> dict[str, Any]:
        """Return n_train and the scores that tables show; NaN where one is not known."""
        found = {"n_train": self.n_train, **{name: self.scores.get(name, math.nan) for name in _TABLE[1:]}}
        return {name: found[name] for name in _TABLE}


def flat_scores(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of `Scores.to_dict` flat, with coverage50, width50, ...; None becomes NaN."""
    flat = {name: _float(scores.get(name)) for name in (*_SCORES, "crps")}
    for interval in scores.get("intervals", ()):
        percent = f"{100 * interval['nominal']:.0f}"
        flat[f"coverage{percent}"], flat[f"width{percent}"] = _float(interval["coverage"]), _float(interval["width"])
    return flat


@dataclass(frozen=True)
class BenchmarkCard:
    """The cards of all targets of a benchmark.

    Attributes:
        space: name of the search space.
        what: the first lines of the protocol text.
        targets: one card for each surrogate.
        anomalies: what is odd about the measurements, in words.
    """

    space: str
    what: str
    targets: Sequence[TargetCard]
    anomalies: Sequence[str] = ()

    def devices(self) -> pd.DataFrame:
        """Return the devices, one a row; dtype, batch, length and scores are those of latency where it is there."""
        import pandas as pd

        names = dict.fromkeys(card.target.device for card in self.targets if card.target.device != ANY_DEVICE)
        rows = [self._device(name) for name in names]
        return pd.DataFrame(rows, index=pd.Index(list(names), dtype=object, name="device"))

    def metrics(self) -> pd.DataFrame:
        """Return the metrics, one a row."""
        import pandas as pd

        names = [m for m in METRICS if m in EXACT_METRICS or any(card.target.metric == m for card in self.targets)]
        rows = [
            {
                "unit": METRICS[name].unit,
                "per_device": METRICS[name].per_device,
                "source": "exact" if name in EXACT_METRICS else "surrogate",
                "lower_is_better": not METRICS[name].higher_is_better,
                "noise": any(card.noise for card in self.targets if card.target.metric == name),
            }
            for name in names
        ]
        return pd.DataFrame(rows, index=pd.Index(names, dtype=object, name="metric"))

    def scores(self) -> pd.DataFrame:
        """Return the scores on held-out architectures, a row for each metric and device."""
        import pandas as pd

        keys = [tuple(card.target) for card in self.targets]
        index = pd.MultiIndex.from_tuples(keys, names=["metric", "device"])
        return pd.DataFrame([{"n_train": card.n_train, **card.scores} for card in self.targets], index=index)

    def text(self) -> str:
        """Return the protocol as text of at most 100 characters a line or so."""
        what = textwrap.fill(self.what, WIDTH)
        parts = [f"# {self.space}", what, "## Targets", self._targets_text(), "## Protocol", self._protocol_text()]
        if self.anomalies:
            parts += ["## Anomalies", "\n".join(_bullet(text) for text in self.anomalies)]
        return "\n\n".join(parts) + "\n"

    def _device(self, name: str) -> dict[str, Any]:
        cards = [card for card in self.targets if card.target.device == name]
        first = next((card for card in cards if card.target.metric == "latency_ms"), cards[0])
        workload = Workload.from_id(first.workload)
        known = DEVICES.get(name)
        hardware = first.hardware or (known.what if known else "")
        cpu = known.is_cpu if known else not hardware.lower().startswith("nvidia")
        vendor = next((v for v in ("nvidia", "intel", "amd", "apple") if v in hardware.lower()), "unknown")
        record = first.record()
        return {
            "kind": "cpu" if cpu else "gpu",
            "vendor": vendor,
            "hardware": hardware,
            "dtype": workload.dtype,
            "batch_size": workload.batch_size,
            "seq_len": workload.seq_len,
            "metrics": ", ".join(card.target.metric for card in cards),
            **{column: record[column] for column in ("n_train", "r2", "kendall", "mape", "coverage90")},
        }

    def _targets_text(self) -> str:
        """Return a table of all targets with units and scores on held-out architectures."""
        head = ["metric", "unit", "device", "rows", "test", "R2", "Kendall", "in width", "MAPE %", "cover90"]
        rows = [head]
        for card in self.targets:
            s, key = card.scores, card.target
            numbers = [_short(s.get(name), 3) for name in ("r2", "kendall", "kendall_within_width")]
            tail = [_short(s.get("mape"), 2), _short(s.get("coverage90"), 3)]
            counts = [str(card.n_train), _short(s.get("n"), 0)]
            rows.append([key.metric, METRICS[key.metric].unit, key.device, *counts, *numbers, *tail])
        return aligned(rows, left=3)

    def _protocol_text(self) -> str:
        """Return what was measured how; targets that were measured alike are named together."""
        groups: dict[tuple[str, str], list[TargetKey]] = {}
        for card in self.targets:
            groups.setdefault((card.workload, card.protocol), []).append(card.target)
        return "\n".join(_bullet(f"{_grouped(keys)}: {workload}. {how}") for (workload, how), keys in groups.items())


def _bullet(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="* ", subsequent_indent="  ", break_on_hyphens=False)


def _grouped(targets: Sequence[TargetKey]) -> str:
    devices: dict[str, list[str]] = {}
    for target in targets:
        devices.setdefault(target.metric, []).append(target.device)
    return "; ".join(
        metric if where == [ANY_DEVICE] else f"{metric} ({', '.join(where)})" for metric, where in devices.items()
    )


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _short(value: float | None, digits: int) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{value:.{digits}f}"
