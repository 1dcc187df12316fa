"""A run folder like that of a real run, made from formulas: latency and perplexity of the tiny space with noise."""

from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np

from hw_profiles.device import Workload
from hw_profiles.table import Measurement, MeasurementTable
from search.algorithms import NSGA2, RandomSearch
from search.baseline import evaluate_front, parameter_count_front
from search.objectives import SurrogateObjective
from search.picks import Pick, save_picks
from search.remeasure import choose
from search.run import run_search
from supernet.artifacts import write_json, write_text
from supernet.cost import mac_counts, parameter_count, parameter_counts
from supernet.spaces import load_space
from surrogates.candidates import candidate_models
from surrogates.fit import fit_surrogates
from surrogates.store import save_set

SPACE = load_space("tiny")
DEVICE, WORKLOAD = "amd-epyc-7b13-2t", Workload(1, 128)
CARD = {"device": "AMD EPYC 7B13", "cpu": "AMD EPYC 7B13", "physical_cores": 2, "memory_mib": 8192, "threads": 2,
        "os": "Linux-6.1", "python": "3.11.9", "torch": "2.6.0"}  # fmt: skip


def latency_ms(archs):
    """Milliseconds: arithmetic, and an overhead for each layer and head."""
    macs = mac_counts(SPACE.model_config, archs, seq_len=WORKLOAD.seq_len).total
    return (
        0.25
        + 0.31 * np.array([a.n_layer for a in archs])
        + 0.05 * np.array([sum(a.n_head) for a in archs])
        + macs / 6e7
    )


def perplexity(archs):
    """Falls with parameters; depth helps more than width."""
    decoder = parameter_counts(SPACE.model_config, archs).decoder
    return 4.2 + 260 * decoder**-0.42 + 0.55 / np.array([a.n_layer for a in archs])


def write_run(folder, *, n_profiled=60, n_evaluations=300, seed=0):
    """Write all parts of a run; returns the folder."""
    rng = np.random.default_rng(seed)
    write_training(folder / "train" / "metrics.csv", rng)
    write_json(folder / "train" / "run.json", {"command": "paretolm train space=tiny run_dir=runs/demo/train"})
    frame = write_measurements(folder / "measurements.parquet", rng, n_profiled)
    xgboost = candidate_models(SPACE, ["xgboost", "log_linear_by_width"])
    fitted = fit_surrogates(frame, SPACE, candidates=xgboost, folds=5)
    save_set(folder / "surrogates", fitted, command="paretolm fit", table="measurements.parquet")
    results = write_searches(folder / "search", fitted, n_evaluations)
    save_picks(folder / "picks.parquet", [p for r in results.values() for p in picks_of(r, rng)] + [largest_pick(rng)])
    write_json(folder / "summary.json", {"command": "paretolm demo", "seconds": 411.0})
    write_json(
        folder / "run.json",
        {"command": "paretolm demo run_dir=runs/demo", "versions": {"python": "3.11.9", "torch": "2.6.0"}},
    )
    write_text(folder / "sample.txt", "def __init__(self, name, value=None):\n    self.name = <name>\n")
    return folder


def write_training(path, rng, *, steps=1500):
    """A metrics.csv as training writes it: rows of steps, and rows of validations between them."""
    names = ["largest", "smallest", "random"]
    nets = ["largest", "smallest", *(f"random_{i}" for i in range(4))]
    header = [
        "step",
        "train/loss",
        *(f"train/loss_{n}" for n in names),
        *(f"val/loss_{n}" for n in nets),
        *(f"val/ppl_{n}" for n in nets),
    ]
    lines = [",".join(header)]
    for step in range(10, steps + 1, 10):
        floor = dict(zip(names, (1.72, 2.12, 1.9), strict=True))
        loss = [floor[n] + 3.8 * np.exp(-((step / 60) ** 0.55)) + rng.normal() * 0.05 for n in names]
        lines.append(",".join([str(step), *(f"{x:.4f}" for x in [np.mean(loss), *loss]), *[""] * (2 * len(nets))]))
        if step % 150 == 0:
            scores = [f + 0.05 + 3.8 * np.exp(-((step / 60) ** 0.55)) for f in (1.72, 2.12, 1.83, 1.88, 1.93, 1.99)]
            lines.append(
                ",".join([str(step), *[""] * 4, *(f"{x:.4f}" for x in scores), *(f"{np.exp(x):.4f}" for x in scores)])
            )
    write_text(path, "\n".join(lines) + "\n")


def write_measurements(path, rng, n):
    archs = list(dict.fromkeys([SPACE.largest(), SPACE.smallest(), *(SPACE.sample(rng) for _ in range(n - 2))]))
    start = datetime(2026, 3, 1, 12, tzinfo=UTC)
    rows = []
    for i, (arch, ms, ppl) in enumerate(zip(archs, latency_ms(archs), perplexity(archs), strict=True)):
        drift = 1 + 0.05 * np.sin(i / 9) + (0.12 if 40 <= i < 46 else 0)
        repeats = tuple(ms * drift * (1 + 0.02 * np.abs(rng.normal(size=20))))
        reference = tuple(2.4 * drift * (1 + 0.015 * np.abs(rng.normal(size=20))))
        common = {
            "space": SPACE.name,
            "architecture": arch.id,
            "timestamp": start + timedelta(seconds=2.1 * i),
            "order": i,
            "threads": 2,
        }
        reference_net = {"reference": SPACE.largest().id, "reference_repeats": reference}
        rows.append(
            Measurement(metric="latency_ms", unit="ms", device=DEVICE, workload=WORKLOAD, repeats=repeats,
                        extra={"device": CARD}, **reference_net, **common)
        )  # fmt: skip
        value = ppl * (1 + 0.004 * rng.normal())
        rows.append(
            Measurement(metric="perplexity", unit="1", device="any", workload=WORKLOAD, repeats=(value,), **common)
        )
    table = MeasurementTable(path)
    table.append(rows)
    return table.read()


def write_searches(folder, fitted, n_evaluations):
    objectives = [SurrogateObjective(fitted["perplexity"]), SurrogateObjective(fitted["latency_ms"])]
    search = partial(run_search, SPACE, objectives, n_evaluations=n_evaluations, batch=50)
    results = {
        "nsga2": search(algorithm=partial(NSGA2, population=50), run_dir=folder / "nsga2"),
        "random": search(algorithm=RandomSearch, run_dir=folder / "random"),
    }
    free = parameter_count_front(SPACE, objectives, n_free_evaluations=1000, population=50)
    counted = evaluate_front(free, SPACE, objectives, n_evaluations=40)
    counted.save(folder / "parameter_count")
    return results | {"parameter_count": counted}


def picks_of(result, rng, *, k=5):
    return [_pick(c.name, c.search, c.architecture, c.predicted, rng) for c in choose(result, k)]


def largest_pick(rng):
    return _pick("largest", "", SPACE.largest(), {}, rng)


def _pick(name, search, arch, predicted, rng):
    ms, ppl = latency_ms([arch])[0], perplexity([arch])[0]
    return Pick(
        name=name, search=search, architecture=arch, parameters=parameter_count(SPACE.model_config, arch),
        latency_ms=float(ms * (1 + 0.01 * rng.normal())), latency_iqr_ms=float(0.03 * ms), n_repeats=20,
        predicted_latency_ms=predicted.get("latency_ms", float("nan")),
        perplexity=float(ppl), perplexity_stderr=float(0.008 * ppl),
        predicted_perplexity=predicted.get("perplexity", float("nan")), device=DEVICE, workload=WORKLOAD.id,
    )  # fmt: skip
