"""What networks cost on the device, predicted: the lattice of fast widths, the latency model, and counted costs.

Nothing is measured where the budget is about counted costs alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from litgpt.config import Config

from hw_profiles.device import Workload
from pruning.budget import MEASURED, Limit, ResolvedBudget, resolve
from pruning.budget_values import best_values, counted_values, dense_values
from pruning.cost_limits import CostFunction, CostLimit
from pruning.latency_model import LatencyModel, measure_and_fit
from pruning.lattice import Lattice
from pruning.lattice_search import find_lattice
from pruning.settings import PruneSettings
from pruning.shape_latency import Timing
from pruning.table_measure import measure_table
from supernet.architecture import Architecture

_MODEL, _LATTICE = "latency_model", "chosen_lattice.json"
_REPEATS_LATTICE = 6  # pairs for each width
_REPEATS_PARTS = 18  # pairs for each part: searches choose what came out too cheap, with 6 pairs by 3 % on the whole
_SHARE_PART, _SHARE = 0.1, 0.15  # of the seconds of a candidate, for each part and for each network
_REPEATS = 3  # pairs for each network of the latency model: more networks tell more than more pairs


@dataclass(frozen=True)
class DeviceCosts:
    """Predicted costs of the sub-networks of one network under one workload.

    Attributes:
        config: of the dense network.
        dense: its architecture.
        tied: whether embedding and head are one matrix.
        workload: the input.
        lattice: the levels worth having.
        model: of the latency; None where the budget does not ask for it.
    """

    config: Config
    dense: Architecture
    tied: bool
    workload: Workload
    lattice: Lattice
    model: LatencyModel | None

    def dense_values(self) -> dict[str, float]:
        """Return the dense network's values of all metrics that are known, in the units of `pruning.budget`."""
        dense_ms = None if self.model is None else self.model.table.dense_ms
        return dense_values(self.config, self.workload, tied=self.tied, dense_ms=dense_ms)

    def values(self, arch: Architecture) -> dict[str, float]:
        """Return the counted values of a network and its predicted latency ratio ("latency_ratio")."""
        counted = counted_values(self.config, [arch], self.workload, tied=self.tied)
        values = {name: float(value[0]) for name, value in counted.items()}
        if self.model is not None:
            values["latency_ratio"] = float(self.model.predict([arch])[0])
        return values

    def limits(self, budget: ResolvedBudget, *, scale: float = 1.0) -> list[CostLimit]:
        """Return the budget as limits of predicted costs, the one that is hardest to meet first.

        Args:
            budget: what was asked for.
            scale: what latencies were measured to be over what was predicted.
        """
        limits = []
        if budget.latency_ratio is not None:
            assert self.model is not None
            predict, table = self.model.predict, self.model.table.predict
            limits.append(CostLimit("latency", partial(_scaled, predict, scale), budget.latency_ratio, table))
        limits += [CostLimit(one.metric, partial(self._ratio, one.metric), one.ratio) for one in budget.counted]
        return limits

    def resolved(self, asked: Sequence[Limit], *, complete: bool) -> ResolvedBudget:
        """Return the budget in absolute values.

        Args:
            asked: what the user wrote.
            complete: whether every kept block has attention and MLP (uniform networks).

        Raises:
            ValueError: a limit that no network reaches; names the smallest that can be.
        """
        budget = resolve(asked, self.dense_values())
        table = None if self.model is None else self.model.table  # the model was not fitted to so small networks
        latency, dense_ms = (None, None) if table is None else (table.predict, table.dense_ms)
        budget.check_reachable(
            best_values(
                self.config, self.lattice, self.workload, tied=self.tied, complete=complete, latency=latency,
                dense_ms=dense_ms,
            )
        )  # fmt: skip
        return budget

    def _ratio(self, metric: str, archs: Sequence[Architecture]) -> np.ndarray:
        """Return a counted metric of each network over the dense one's, (n,)."""
        values = counted_values(self.config, [self.dense, *archs], self.workload, tied=self.tied)[metric].astype(float)
        return values[1:] / values[0]


def device_costs(
    config: Config,
    dense: Architecture,
    *,
    tied: bool,
    workload: Workload,
    asked: Sequence[Limit],
    settings: PruneSettings,
    folder: Path,
    progress: bool = False,
) -> DeviceCosts:
    """Measure what the budget needs: nothing, or the lattice, the table and whole networks for the latency model.

    Args:
        config: of the dense network.
        dense: its architecture.
        tied: whether embedding and head are one matrix.
        workload: the input.
        asked: the budget.
        settings: device, threads, number of networks.
        folder: keeps what was measured; a killed run goes on from there.
        progress: show progress bars.

    Raises:
        ValueError: the workload is too long for the network, or `folder` is of another network, workload or device.
    """
    timed = [limit.metric in MEASURED for limit in asked]
    if all(limit.metric in ("params", "decoder_params") for limit in asked):
        workload = _shortened(workload, config.block_size)
    else:
        workload.check_fits(config.block_size)
    if any(timed):
        lattice, model = _measured(
            config, workload, tied=tied, settings=settings, folder=folder, counted=not all(timed), progress=progress
        )
    else:
        lattice, model = Lattice.coarse(config), None
    if not settings.embd:
        lattice = replace(lattice, embd=(config.n_embd,))
    return DeviceCosts(config, dense, tied, workload, lattice, model)


def _measured(
    config: Config,
    workload: Workload,
    *,
    tied: bool,
    settings: PruneSettings,
    folder: Path,
    counted: bool,
    progress: bool,
) -> tuple[Lattice, LatencyModel]:
    """Return the lattice and the latency model; with `counted` costs limited too, widths that save no time stay."""
    seconds = settings.verify.seconds
    timing = Timing(
        device=settings.device, threads=settings.threads, repeats=_REPEATS_LATTICE, warmup=1,
        seconds=_SHARE_PART * seconds,
    )  # fmt: skip
    lattice = find_lattice(config, workload, timing=timing, embd=settings.embd, folder=folder, progress=progress)
    lattice.save(folder / _LATTICE)
    if counted:
        lattice = _union(lattice, Lattice.coarse(config))
        folder = folder / "with_counted_costs"
    if not settings.embd:
        lattice = replace(lattice, embd=(config.n_embd,))
    path = folder / _MODEL
    if path.is_dir():
        return lattice, LatencyModel.load(path)
    table = measure_table(
        config, lattice, workload, timing=replace(timing, repeats=_REPEATS_PARTS), tied=tied, folder=folder,
        progress=progress,
    )  # fmt: skip
    whole = replace(timing, repeats=_REPEATS, seconds=_SHARE * seconds)
    model = measure_and_fit(
        config, table, lattice, n=settings.verify.n_networks, timing=whole, tied=tied, seed=settings.seed,
        folder=folder, progress=progress,
    )  # fmt: skip
    model.save(path)
    return lattice, model


def _shortened(workload: Workload, block_size: int) -> Workload:
    """Return a workload that the network can run; a budget of parameters does not depend on it."""
    if workload.n_positions <= block_size:
        return workload
    if workload.phase == "prefill":
        return replace(workload, seq_len=block_size)
    return replace(workload, cache_len=block_size - 1)


def _union(one: Lattice, other: Lattice) -> Lattice:
    """Return all levels of both."""
    levels = {name: sorted({*getattr(one, name), *getattr(other, name)}) for name in ("neurons", "attention", "embd")}
    return Lattice(**{name: tuple(values) for name, values in levels.items()})


def known_lattice(folder: Path) -> Lattice | None:
    """Return the lattice that a run found, or None."""
    path = folder / _LATTICE
    return Lattice.load(path) if path.is_file() else None


def _scaled(predict: CostFunction, scale: float, archs: Sequence[Architecture]) -> np.ndarray:
    return predict(archs) * scale
