"""Makes the shipped benchmark of a scale of HW-GPT-Bench: fits, scores held-out architectures, writes model and card.

No torch. Architectures of the published hold-out (bucket 0) are left out if the table has them; those of bucket 1 are
the test set, which nothing is fitted to or chosen by; the others are fitted and cross-validated.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hw_profiles.importers.hwgpt_devices import DEVICES, ENERGY, HOST_ENERGY, JOB_SIZE, LATENCY, MEMORY, SOURCE
from hw_profiles.importers.hwgpt_protocol import bucket, space_of
from hw_profiles.table import ANY_DEVICE, METRICS
from supernet.architecture import Architecture
from supernet.cost import parameter_counts
from surrogates.campaign import Campaign, TargetKey, campaign
from surrogates.space_fit import SpaceFit, TargetFit
from surrogates.space_model import SpaceModel
from surrogates.space_store import save_space_model
from surrogates.validation import Scores, parameter_count_scores, score_target

if TYPE_CHECKING:
    import pandas as pd

TEST_BUCKET = 1
SHIPPED = (LATENCY, ENERGY, MEMORY, "perplexity", "accuracy")
ANOMALIES = (
    "Measurements drift with the hour they were taken in: CPU latencies and energies by 5 to 25 % along a job, GPU "
    "energies of whole jobs by up to 70 % (rtx3080 m). The surrogates are fitted to values with that divided out; "
    "quantiles with drift=True contain it.",
    "Scale s: the first rows of every job on rtx2080 (17 to 19 %), rtx3080 (7 to 8 %) and a6000 (4 %) were measured "
    "faster; the cause is unknown. This, too, is treated as drift.",
    "v100 latency falls in two clusters 5 to 12 % apart that no feature of the architecture explains: its intervals "
    "are wide.",
    "energy_mj of GPUs was measured with 8 sequences at every scale, latency with 8 (s), 4 (m) and 1 (l): do not "
    "divide one by the other at m and l.",
    "cpu_amd_7513 at scale s has one repeat an architecture, so its noise is unknown; energies of CPUs have none.",
    "Names of CPUs were inferred from upstream's folders: likely, not certain.",
)


def ship(
    frame: pd.DataFrame, scale: str, folder: str | Path, *, command: str, n_jobs: int = 1, tree_baselines: bool = True
) -> dict[str, Any]:  # fmt: skip
    """Fit the benchmark of a scale, write it to a folder and return its card.

    Args:
        frame: imported measurements (`paretolm import`).
        scale: s, m or l.
        folder: of the model; an older one in it is replaced.
        command: how it was made, for the card.
        n_jobs: threads of XGBoost.
        tree_baselines: whether XGBoost alone is cross-validated too, for the card.
    """
    space = space_of(scale)
    data = campaign(frame[frame["metric"].isin(SHIPPED)], space)
    buckets = np.array([bucket(scale, Architecture.from_id(text)) for text in data.ids])
    fit = SpaceFit(data, buckets > TEST_BUCKET, job_size=JOB_SIZE, n_jobs=n_jobs, tree_baselines=tree_baselines)
    model, fits = fit.fit()
    test = np.flatnonzero(buckets == TEST_BUCKET)
    entries = [_entry(data, model, i, found, test) for i, found in enumerate(fits)]
    card = {
        "what": f"Surrogates of {SOURCE}'s measurements at scale {scale} (Sukthanker et al. 2024, arXiv 2405.10299; "
        "Apache-2.0), fitted by paretolm.",
        "command": command,
        "split": f"sha256 of the published architecture string mod 10: 0 unseen, {TEST_BUCKET} test, the rest fitted",
        "targets": entries,
        "anomalies": list(ANOMALIES),
    }
    save_space_model(folder, model, card)
    return card


def _entry(data: Campaign, model: SpaceModel, i: int, found: TargetFit, test: np.ndarray) -> dict[str, Any]:
    key = found.key
    candidates = {name: _brief(scores) for name, scores in found.candidates.items()}
    adjusted, published, count = test_scores(data, model, i, found, test)
    return {
        "metric": key.metric,
        "device": key.device,
        "unit": METRICS[key.metric].unit,
        "workload": data.workloads[key],
        "protocol": protocol(key),
        "winner": found.winner,
        "share_of_trees": found.share,
        "n_train": found.n_train,
        "n_test": adjusted.n,
        "noise": key in data.repeats,
        "drift_std": float(found.drift.std()),
        "test": adjusted.to_dict(),
        "test_published": published.to_dict(),
        "test_parameter_count": _brief(count),
        "cross_validated": candidates,
    }


def test_scores(
    data: Campaign, model: SpaceModel, i: int, found: TargetFit, test: np.ndarray
) -> tuple[Scores, Scores, Scores]:  # fmt: skip
    """Return the scores of target i on test rows: drift-adjusted, as published, and of the parameter count."""
    rows = test[np.isfinite(data.values[found.key][test])]
    genes, widths = data.genes[rows], data.widths[rows]
    y, median = data.values[found.key][rows], model.predict(genes)[:, i]
    levels = model.spread.levels

    def scored(values: np.ndarray, *, drift: bool) -> Scores:
        logs = model.log_quantiles(genes, levels.tolist(), drift=drift)[:, i]
        return score_target(values, median, levels, median[:, None] * np.exp(logs), widths=widths)

    adjusted = y / np.exp(found.drift[rows])
    decoder = parameter_counts(data.space.model_config, [Architecture.from_id(t) for t in data.ids[rows]]).decoder
    return (
        scored(adjusted, drift=False),
        scored(y, drift=True),
        parameter_count_scores(adjusted, decoder, widths=widths),
    )


def protocol(key: TargetKey) -> str:
    """Return how a target was measured, in words."""
    if key.device == ANY_DEVICE:
        return (
            "Weights inherited from one supernet a scale (sandwich rule, OpenWebText), evaluated on the held-out split "
            "without further training; one value an architecture."
        )
    device = DEVICES[key.device]
    if key.metric == MEMORY:
        return (
            f"torch.cuda.memory_allocated() after a forward pass under autocast to {device.dtype}: float32 weights and "
            "their cached half-precision copies. Not the peak, no activations."
        )
    if key.metric in (ENERGY, HOST_ENERGY) and not device.is_cpu:
        return (
            f"Power by nvidia-smi, polled during one forward pass (autocast to {device.dtype}, no gradients), times "
            "its CUDA-event time; median of 50 repeats."
        )
    if key.metric == ENERGY:
        return "CodeCarbon's offline tracker around one forward pass, float32; mean of 10 runs."
    if device.is_cpu:
        return (
            "One forward pass, float32, gradients on, 8 cores of a shared node; CPU time of torch.profiler, printed "
            "with about three digits; median of 10 repeats, no warm-up."
        )
    return (
        f"One forward pass, float32 weights under autocast to {device.dtype}, gradients on; sum of kernel times by "
        "torch.profiler, without launch gaps; median of 10 repeats, no warm-up."
    )


def _brief(scores: Scores) -> dict[str, Any]:
    """Return the scores without those inside widths, but with their mean Kendall."""
    return {name: value for name, value in scores.to_dict().items() if name not in ("within_width", "intervals")}
