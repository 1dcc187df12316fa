"""Ask for the hardware metrics and the perplexity of any architecture of a space: shipped surrogates, no measuring.

    from surrogates import Benchmark
    b = Benchmark("gpt-s")
    b.query(b.space.largest(), metrics=("latency", "perplexity"), devices="a100", quantiles=(0.05, 0.95))

Answers are noise-free medians, the same in every order and batch of questions. No torch, no network.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from hw_profiles.table import METRICS
from supernet.encoding import from_genes
from supernet.space import SearchSpace
from surrogates.benchmark_files import load_benchmark
from surrogates.benchmark_targets import Names, TargetList
from surrogates.campaign import TargetKey
from surrogates.gene_ids import GeneIds
from surrogates.measurement_noise import gene_hashes, normal_draws
from surrogates.prediction_cache import PredictionCache
from surrogates.queries import Architectures, GeneReader
from surrogates.query_frame import QueryColumns, stat_name, to_frame, to_records

if TYPE_CHECKING:
    import pandas as pd

    from hw_profiles.device import Workload
    from hw_profiles.table import MeasurementTable
    from surrogates.adapted import AdaptedDevice
    from surrogates.benchmark_objective import BenchmarkObjective

_CACHED_ROWS = 32  # larger batches are faster without the cache
Out = Literal["frame", "numpy", "records"]


class _Plan(NamedTuple):
    """What a query asks for.

    Attributes:
        indices: (k,) of the targets.
        levels: q quantiles, ascending.
        columns: of the result.
    """

    indices: np.ndarray
    levels: tuple[float, ...]
    columns: QueryColumns


class Benchmark:
    """Shipped surrogates of a search space; see the top of this file.

    Reading is safe in threads, and results depend on the question only: not on earlier ones, on the batch an
    architecture is in, or on the cache.

    Args:
        space: "gpt-s", "gpt-m" or "gpt-l", or a space of one of these names.
        extra_devices: adapted devices (`Benchmark.adapt`) or their folders (`paretolm adapt`), beside the shipped ones.
        cache_size: how many architectures' predictions to remember; 0 for none.
        folder: of another benchmark than the shipped one.

    Raises:
        ValueError: no benchmark of that name (near matches are given), or a damaged file (named).
        FileNotFoundError: a folder that does not exist.
    """

    def __init__(
        self, space: str | SearchSpace = "gpt-s", *, extra_devices: Sequence[str | Path | AdaptedDevice] = (),
        cache_size: int = 4096, folder: str | Path | None = None,
    ) -> None:  # fmt: skip
        self._arguments = (space, tuple(extra_devices), cache_size, folder)
        self._files = load_benchmark(space, extra_devices=extra_devices, folder=folder)
        self._model = self._files.model
        self.space = self._files.space
        self._targets = TargetList(self._model.targets)
        self._reader = GeneReader(self.space)
        self._ids = GeneIds(self.space)
        self._cache = PredictionCache(cache_size)
        self._plan = lru_cache(maxsize=256)(self._make_plan)  # columns are made once for each kind of question

    def __reduce__(self) -> tuple[Any, ...]:
        return _loaded, self._arguments  # other processes read the files themselves

    def __repr__(self) -> str:
        return f"Benchmark({self.space.name!r}: {len(self._targets)} targets, {len(self._targets.devices)} devices)"

    # --- what there is --------------------------------------------------------------------------------------------

    @property
    def digest(self) -> str:
        """What tells the fitted models apart, 16 hexadecimal digits; added devices are not included."""
        return self._files.digest

    @cached_property
    def devices(self) -> pd.DataFrame:
        """Devices, one a row: what they are, what was measured on them, and how good the surrogate of latency is."""
        return self._files.card.devices()

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Metrics, one a row: unit, per_device, source ("exact" or "surrogate"), lower_is_better, noise."""
        return self._files.card.metrics()

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Scores of each surrogate on architectures that it was not fitted to, a row for each (metric, device)."""
        return self._files.card.scores()

    def card(self) -> str:
        """Return the protocol: what was measured how, in which units, with which anomalies, and all scores."""
        return self._files.card.text()

    # --- questions ------------------------------------------------------------------------------------------------

    def query(
        self, archs: Architectures, metrics: Names = None, devices: Names = None, *,
        quantiles: Iterable[float] | None = None, drift: bool = False, noise: bool = False, seed: int | None = None,
        out: Out = "frame",
    ) -> Any:  # fmt: skip
        """Return metrics of architectures.

        Args:
            archs: in any form (`surrogates.queries`), one or many; gene arrays (n, g) are the fastest.
            metrics: names ("latency_ms", or short "latency"); None for all.
            devices: names; None for all. Metrics that depend on no device are always there.
            quantiles: levels between 0 and 1. Between 0.05 and 0.95 lies, with 90 % probability, what the median of
                repeats of an architecture that was not measured would be, without the drift of the hour: the
                surrogate's error, not the spread of single repeats.
            drift: quantiles of a median as published instead, which was also shifted by the hour it was measured in.
            noise: draw one measurement (median x exp(repeat noise)) instead of the median, in the column "draw".
                Exact metrics, and those that were never repeated, have no noise.
            seed: of the draws, required with `noise`; a draw depends on seed, architecture and target only.
            out: "frame", "numpy" or "records".

        Returns:
            "frame": a row for each architecture (index: its id), columns (metric, device, stat), units in
            `attrs["units"]`. "numpy": the same values as (n, columns). "records": a dict for each architecture and
            target.

        Raises:
            KeyError: an unknown metric or device; near matches and all names are given.
            ValueError: an architecture that cannot be read or is not in the space, a metric that a device lacks, a
                level that is not possible, `noise` without a seed, or an unknown `out`.
        """
        if out not in get_args(Out):
            raise ValueError(f"out = {out!r}; allowed: {', '.join(get_args(Out))}")
        genes = self._reader.genes(archs)
        plan = self._plan(_hashable(metrics), _hashable(devices), _levels(quantiles), noise)
        medians = self._medians(genes, plan.indices)
        values = self._drawn(medians, genes, plan, noise=noise, seed=seed) if noise or seed is not None else medians
        if plan.levels:
            logs = self._model.log_quantiles(genes, plan.levels, plan.indices, drift=drift)
            stats = [values[:, :, None], medians[:, :, None] * np.exp(logs)]
            values = np.concatenate(stats, axis=2).reshape(len(genes), logs.shape[1] * (1 + logs.shape[2]))
        if out == "numpy":
            return values
        return (to_frame if out == "frame" else to_records)(values, self._ids(genes), plan.columns)

    def columns(
        self, metrics: Names = None, devices: Names = None, *, quantiles: Iterable[float] | None = None,
        noise: bool = False,
    ) -> QueryColumns:  # fmt: skip
        """Return what the columns of `query` with these arguments hold: targets, units, statistics."""
        return self._plan(_hashable(metrics), _hashable(devices), _levels(quantiles), noise).columns

    def objective(self, metrics: Sequence[str | tuple[str, str]]) -> BenchmarkObjective:
        """Return a function of architectures to minimise, with frozen bounds, for optimizers.

        Args:
            metrics: names, with a device where there are several: ("perplexity", ("latency", "a100")).

        Raises:
            KeyError: an unknown metric or device.
            ValueError: a device is missing, or lacks the metric; none, or one twice.
        """
        from surrogates.benchmark_objective import BenchmarkObjective

        pairs = [(item, None) if isinstance(item, str) else item for item in metrics]
        indices = [self._targets.index(metric, device) for metric, device in pairs]
        if not indices or len(set(indices)) < len(indices):
            raise ValueError(f"objectives {list(metrics)}: give at least one, each once")
        targets = tuple(self._targets.targets[i] for i in indices)
        units = tuple(METRICS[target.metric].unit for target in targets)
        return BenchmarkObjective(targets, units, self, self._files.fronts)

    # --- measurements of one's own --------------------------------------------------------------------------------

    def adapt(
        self, archs: Architectures, measured: Sequence[float], metric: str = "latency_ms", *, name: str,
        workload: Workload | str, unit: str | None = None,
    ) -> AdaptedDevice:  # fmt: skip
        """Predict a device that is not here from a handful of its measurements; see `surrogates.adapt`.

        Args:
            archs: 10 to 50 architectures in any form, each once.
            measured: (n,) medians of their repeats.
            metric: what was measured.
            name: of the new device.
            workload: the input, or its id such as "prefill-b1-t128-float32"; it may differ from the shipped ones.
            unit: of the values; None for the metric's own.

        Returns:
            The device: `Benchmark(space, extra_devices=[device])` answers for it, `device_store.save_device` keeps it.

        Raises:
            ValueError: too few values (says how many are needed), values that are not finite and above 0 or in another
                unit, an architecture twice, a name that is taken, or a metric that no shipped device has.
        """
        from surrogates.adapt import adapt_device
        from surrogates.adapt_input import measured_values

        full = self._targets.metric(metric)
        known = [from_genes(self.space, row) for row in self._reader.genes(archs)]
        values = measured_values(known, measured, space=self.space, workload=workload, metric=full, unit=unit)
        return adapt_device(self._model.model, [values], name=name, reserved=self._targets.devices)

    def evaluate(
        self, table: MeasurementTable | pd.DataFrame | str | Path | None = None, *, held_out: bool = True
    ) -> pd.DataFrame:
        """Return scores of the surrogates, a row for each (metric, device).

        Args:
            table: measurements to score on, as published; None for the scores that ship with the surrogates (of the
                test architectures, with the drift of the hour divided out).
            held_out: leave out rows of `table` that the shipped surrogates were fitted to.

        Raises:
            ValueError: a table without rows to score.
        """
        if table is None:
            return self.scores
        from surrogates.benchmark_scores import table_scores

        return table_scores(self._model, self._files.card, table, held_out=held_out)

    def medians(self, archs: Architectures, targets: Sequence[TargetKey]) -> np.ndarray:
        """Return noise-free medians (n, k) of targets such as those of `columns`; the plainest way to ask."""
        indices = [self._targets.index(*target) for target in targets]
        return self._medians(self._reader.genes(archs), np.array(indices, np.int64))

    def genes(self, archs: Architectures) -> np.ndarray:
        """Return canonical genes (n, g) int64 of architectures in any form; see `supernet.encoding`."""
        return self._reader.genes(archs)

    def ids(self, archs: Architectures) -> list[str]:
        """Return the ids of architectures in any form; `Architecture.from_id` reads them."""
        return self._ids(self._reader.genes(archs))

    def _make_plan(self, metrics: Names, devices: Names, levels: tuple[float, ...], noise: bool) -> _Plan:
        indices = self._targets.select(metrics, devices)
        targets = tuple(self._targets.targets[i] for i in indices)
        units = tuple(METRICS[target.metric].unit for target in targets)
        stats = ("draw" if noise else "median", *(stat_name(level) for level in levels))
        return _Plan(np.array(indices, np.int64), levels, QueryColumns(targets, units, stats))

    def _medians(self, genes: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Return medians of some targets, (n, k); what is in the cache is not computed, nothing is computed twice."""
        if not len(genes):
            return np.empty((0, len(indices)))
        if len(genes) > _CACHED_ROWS:
            _, first, inverse = np.unique(gene_hashes(genes), return_index=True, return_inverse=True)
            if len(first) == len(genes):
                return self._model.predict_some(genes, indices)
            return self._model.predict_some(genes[first], indices)[inverse]
        keys = [row.tobytes() for row in genes]
        found = {key: self._cache.get(key) for key in keys}
        missing = {key: i for i, key in enumerate(keys) if found[key] is None}
        if missing:
            rows = self._model.predict(genes[list(missing.values())])
            for key, row in zip(missing, rows, strict=True):
                found[key] = row
                self._cache.put(key, row.copy())  # not a view, which would keep the whole batch
        return np.array([found[key] for key in keys])[:, indices]

    def _drawn(
        self, medians: np.ndarray, genes: np.ndarray, plan: _Plan, *, noise: bool, seed: int | None
    ) -> np.ndarray:
        if not noise:
            warnings.warn("seed is not used without noise=True", stacklevel=3)
            return medians
        if seed is None:
            raise ValueError("noise=True needs a seed: query(..., noise=True, seed=0)")
        names = [f"{target.metric} {target.device}" for target in plan.columns.targets]
        draws = normal_draws(gene_hashes(genes), names, seed=seed)
        return medians * np.exp(np.nan_to_num(self._model.noise_std(genes, plan.indices)) * draws)


def _loaded(
    space: str | SearchSpace, extra_devices: Sequence[str | Path | AdaptedDevice], cache_size: int,
    folder: str | Path | None,
) -> Benchmark:  # fmt: skip
    return Benchmark(space, extra_devices=extra_devices, cache_size=cache_size, folder=folder)


def _hashable(names: Names) -> str | tuple[str, ...] | None:
    return names if names is None or isinstance(names, str) else tuple(names)


def _levels(quantiles: Iterable[float] | None) -> tuple[float, ...]:
    """Return quantile levels ascending, each once."""
    if quantiles is None:
        return ()
    levels = tuple(sorted({float(level) for level in ([quantiles] if isinstance(quantiles, float) else quantiles)}))
    if wrong := [level for level in levels if not 0 < level < 1]:
        raise ValueError(f"quantile {wrong[0]:g}: give levels between 0 and 1, both excluded")
    return levels
