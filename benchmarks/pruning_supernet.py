"""The other route: fine-tune the importance-ordered network as a supernet, search its sub-networks, compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import litgpt
import numpy as np
from pruning_methods import ONE_SHOT, OURS, Goal
from pruning_stages import Precision, recovery_settings, recovery_text
from pruning_study import Study

from pruning.depth import block_influence
from pruning.latency_check import LatencyRatio, measure_ratios
from pruning.latency_model import LatencyModel
from pruning.latency_table import LatencyTable
from pruning.lattice import Lattice
from pruning.ordered import put_in_order
from pruning.pruned import Pruned
from pruning.recovery_settings import RecoverySettings
from pruning.route_comparison import Contender, compare_routes
from pruning.supernet_route import RouteSettings, search_route, space_around, train_route
from supernet.architecture import Architecture
from supernet.checkpoint import load_subnet

Predict = Callable[[Sequence[Architecture]], np.ndarray]


def supernet_route(
    study: Study, *, steps: int, n_evaluations: int, precision: Precision = "auto", goal: Goal = ONE_SHOT[0]
) -> None:
    """Train, search and compare with our recovered network, at equal measured latency and equal training tokens."""
    study.record(
        "supernet/comparison", lambda: _comparison(study, recovery_settings(steps, precision), n_evaluations, goal)
    )


def _comparison(study: Study, training: RecoverySettings, n_evaluations: int, goal: Goal) -> dict[str, Any]:
    recovered = study.record(f"recovery/{OURS}")
    rate, folder = recovered["learning_rate"], study.folder / "supernet"
    training = replace(training, learning_rate=rate)
    prepared = study.our_evidence(0)
    ordered, lattice = put_in_order(prepared), Lattice.coarse(study.config)
    L = study.whole.n_layer
    space = space_around(
        ordered.supernet, neurons=lattice.neurons, attention=lattice.attention, n_layer=range(max(1, L // 2), L + 1)
    )
    expendable = block_influence(prepared.moments).argsort(stable=True).tolist()
    train, texts = recovery_text(study)
    held_out = texts["calibration text"]
    train_route(
        ordered.supernet, study.loaded.supernet, space, train, held_out, folder=folder / "training",
        settings=RouteSettings(training=training), expendable=expendable, progress=study.progress,
    )  # fmt: skip
    predict = latency_predictor(study, goal)
    found = search_route(
        ordered.supernet, space, held_out, predict, run_dir=folder / "search", n_evaluations=n_evaluations,
        expendable=expendable, batch_size=study.settings.batch_size, precision=study.search_precision,
        progress=study.progress,
    )  # fmt: skip
    tokens = training.n_tokens(study.settings.seq_len)
    path = study.folder / "recovery" / OURS / f"learning-rate-{rate:g}" / "network"
    rows = compare_routes(
        ordered.supernet, found.front_architectures, {goal.name: Contender(Pruned(*load_subnet(path)), tokens)},
        study.scored, measure=_measure(study, goal), predict=predict, supernet_tokens=tokens,
        batch_size=study.settings.batch_size,
    )  # fmt: skip
    return {
        "rows": [row.to_dict() for row in rows], "n_evaluations": n_evaluations, "steps": training.max_steps,
        "front": [arch.id for arch in found.front_architectures],
        "front_values": np.asarray(found.front).tolist(),
    }  # fmt: skip


def latency_predictor(study: Study, goal: Goal) -> Predict:
    """Return predicted latency over the dense network's: what pruning to the goal measured, else by arithmetic."""
    stored = study.run_folder(0, goal.workload) / "device" / "latency_model"
    if stored.is_dir():
        return LatencyModel.load(stored).predict
    lattice = Lattice.coarse(study.config)
    return LatencyTable.analytic(study.config, lattice, study.settings.workloads[goal.workload]).predict


def _measure(study: Study, goal: Goal) -> Callable[[Sequence[litgpt.GPT]], Sequence[LatencyRatio]]:
    settings = study.settings

    def measure(networks: Sequence[litgpt.GPT]) -> Sequence[LatencyRatio]:
        return measure_ratios(
            networks, study.loaded.supernet, settings.workloads[goal.workload], repeats=settings.repeats,
            threads=settings.threads, precision=settings.precision, progress=study.progress,
        )  # fmt: skip

    return measure
