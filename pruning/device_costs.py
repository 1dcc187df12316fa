"""What networks cost on the device, predicted: the lattice of fast widths, the latency model, and counted costs.

Nothing is measured where the budget is about counted costs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from litgpt.config import Config

from hw_profiles.device import Workload
from pruning.budget import MEASURED, Limit, ResolvedBudget, resolve
from pruning.cost_limits import CostFunction, CostLimit, kv_cache_ratio, parameter_ratio
from pruning.latency_model import LatencyModel, measure_and_fit
from pruning.lattice import Lattice
from pruning.lattice_search import find_lattice
from pruning.settings import PruneSettings
from pruning.shape_latency import Timing
from pruning.table_measure import measure_table
from supernet.architecture import Architecture
from supernet.artifacts import read_json, write_json
from supernet.cost import kv_cache_elements, parameter_counts

_MODEL, _LATTICE = "latency_model", "lattice.json"


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
        values = {name: float(count([self.dense])[0]) for name, count in self._counts().items()}
        if self.model is not None:
            values["latency"] = self.model.table.dense_ms
            values["tokens_per_s"] = self.workload.n_tokens * 1e3 / self.model.table.dense_ms
        return values

    def values(self, arch: Architecture) -> dict[str, float]:
        """Return the counted values of a network and its predicted latency ratio ("latency_ratio")."""
        values = {name: float(count([arch])[0]) for name, count in self._counts().items()}
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
        ratios = self._ratios()
        limits += [CostLimit(one.metric, ratios[one.metric], one.ratio) for one in budget.counted]
        return limits

    def resolved(self, asked: Sequence[Limit]) -> ResolvedBudget:
        """Return the budget in absolute values."""
        return resolve(asked, self.dense_values())

    def _ratios(self) -> dict[str, CostFunction]:
        return {
            "params": parameter_ratio(self.config, self.dense, tied=self.tied),
            "decoder_params": parameter_ratio(self.config, self.dense, tied=self.tied, decoder=True),
            "kv_cache": kv_cache_ratio(self.config, self.dense, seq_len=self.workload.n_positions),
            "memory": partial(_over_dense, self._counts()["memory"], self.dense),
        }

    def _counts(self) -> Mapping[str, Callable[[Sequence[Architecture]], np.ndarray]]:
        return {
            "params": lambda archs: parameter_counts(self.config, archs, tied=self.tied).total,
            "decoder_params": lambda archs: parameter_counts(self.config, archs, tied=self.tied).decoder,
            "kv_cache": self._kv_bytes,
            "memory": lambda archs: (
                parameter_counts(self.config, archs, tied=self.tied).total * self.workload.bytes_per_element
                + self._kv_bytes(archs)
            ),
        }

    def _kv_bytes(self, archs: Sequence[Architecture]) -> np.ndarray:
        elements = kv_cache_elements(self.config, archs, seq_len=self.workload.n_positions)
        return elements * (self.workload.batch_size * self.workload.bytes_per_element)


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
    measured = any(limit.metric in MEASURED for limit in asked)
    if measured:
        workload.check_fits(config.block_size)
        lattice, model = _measured(config, workload, tied=tied, settings=settings, folder=folder, progress=progress)
    else:
        lattice, model = Lattice.coarse(config), None
    if not settings.embd:
        lattice = replace(lattice, embd=(config.n_embd,))
    return DeviceCosts(config, dense, tied, workload, lattice, model)


def _measured(
    config: Config, workload: Workload, *, tied: bool, settings: PruneSettings, folder: Path, progress: bool
) -> tuple[Lattice, LatencyModel]:
    timing = Timing(device=settings.device, threads=settings.threads)
    lattice = find_lattice(config, workload, timing=timing, folder=folder, progress=progress)
    write_json(folder / _LATTICE, {"neurons": lattice.neurons, "attention": lattice.attention, "embd": lattice.embd})
    if not settings.embd:
        lattice = replace(lattice, embd=(config.n_embd,))
    path = folder / _MODEL
    if path.is_dir():
        return lattice, LatencyModel.load(path)
    table = measure_table(config, lattice, workload, timing=timing, tied=tied, folder=folder, progress=progress)
    model = measure_and_fit(
        config, table, lattice, n=settings.verify.n_networks, timing=replace(timing, repeats=6), tied=tied,
        seed=settings.seed, folder=folder, progress=progress,
    )  # fmt: skip
    model.save(path)
    return lattice, model


def known_lattice(folder: Path) -> Lattice | None:
    """Return the lattice that a run found, or None."""
    if not (folder / _LATTICE).is_file():
        return None
    stored = read_json(folder / _LATTICE)
    return Lattice(tuple(stored["neurons"]), tuple(map(tuple, stored["attention"])), tuple(stored["embd"]))


def _scaled(predict: CostFunction, scale: float, archs: Sequence[Architecture]) -> np.ndarray:
    return predict(archs) * scale


def _over_dense(
    count: Callable[[Sequence[Architecture]], np.ndarray], dense: Architecture, archs: Sequence[Architecture]
) -> np.ndarray:
    values = count([dense, *archs]).astype(float)
    return values[1:] / values[0]
