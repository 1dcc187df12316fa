"""How good the shipped surrogates are on architectures they have not seen, and whether that is as good as it should be.

    python benchmarks/run_surrogates.py --data ../shared/hwgpt_bench --output benchmarks/results/2026-11-21_surrogates

Writes <output>.json (everything), <output>.md (tables) and <output>_*.png. The test architectures are those of hash
bucket 1 of HW-GPT-Bench's canonical strings: nothing was fitted to them or chosen by them. About 10 minutes on a core,
most of it for the XGBoost baseline (--no-baselines leaves it out).
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from hw_profiles.device import current_device
from hw_profiles.importers.hwgpt_devices import DEVICES, JOB_SIZE
from hw_profiles.importers.hwgpt_protocol import SCALES, Selection, bucket
from hw_profiles.importers.hwgpt_tables import import_hwgpt_tables
from hw_profiles.table import MeasurementTable
from supernet.architecture import Architecture
from supernet.artifacts import atomic_path, versions, write_text
from surrogates.accuracy_report import (
    Goal,
    TargetReport,
    TargetTest,
    ceiling_goal,
    coverage_goals,
    mean_kendall,
    report_target,
)
from surrogates.accuracy_tables import accuracy_table, ceiling_table, goals_table, interval_table, width_table
from surrogates.benchmark_files import DATA
from surrogates.campaign import campaign
from surrogates.figure_style import to_png
from surrogates.figures import calibration_figure, device_figure, error_figure, predicted_figure
from surrogates.held_out import RAW_GENES, held_out_tests
from surrogates.hwgpt_benchmark import TEST_BUCKET
from surrogates.space_store import load_space_model

BASELINES = ("parameter_count", "linear", RAW_GENES)
GPUS = [name for name, device in DEVICES.items() if not device.is_cpu]
CPUS = [name for name, device in DEVICES.items() if device.is_cpu]
STEADY_GPUS = ["p100", "a100", "a40", "a6000", "h100"]
# by scale: the least to reach, and what a first, untuned fit reached
GPU_LATENCY = {"s": (0.992, 0.991), "m": (0.991, 0.990), "l": (0.985, 0.984)}
GPU_LATENCY_ADJUSTED = {"s": 0.995, "m": 0.993, "l": 0.990}
GPU_ENERGY = {"s": (0.880, 0.876), "m": (0.855, 0.850), "l": (0.865, 0.858)}
MEMORY = {"s": (0.990, 0.988), "m": (0.985, 0.979), "l": (0.985, 0.983)}
PERPLEXITY = {"s": (0.992, 0.991), "m": (0.988, 0.989), "l": (0.930, 0.916)}
FIRST_CPU_RAW = {"s": 0.86, "m": 0.85, "l": 0.86}


def main() -> None:
    options = _options()
    start = time.perf_counter()
    tests: dict[str, list[TargetTest]] = {}
    for scale in options.scales:
        tests[f"gpt-{scale}"] = scale_tests(scale, options)
        print(f"gpt-{scale}: {len(tests[f'gpt-{scale}'])} targets, {time.perf_counter() - start:.0f} s", flush=True)
    rng = np.random.default_rng(options.seed)
    reports = [report_target(test, rng=rng) for group in tests.values() for test in group]
    goals = [goal for scale in options.scales for goal in scale_goals(reports, scale)]
    save(options.output, reports, goals, _header())
    draw(options.output, tests, reports)
    print(goals_table(goals))
    print(f"written to {options.output}.json, .md and _*.png in {time.perf_counter() - start:.0f} s")


def scale_tests(scale: str, options: argparse.Namespace) -> list[TargetTest]:
    """Return the held-out targets of a scale's shipped model."""
    model = load_space_model(options.models / f"gpt-{scale}")
    with tempfile.TemporaryDirectory() as folder:
        table = options.work / f"measurements-{scale}" if options.work else Path(folder) / "measurements"
        import_hwgpt_tables(options.data, table, selection=Selection(scales=(scale,)))
        frame = MeasurementTable(table).read()
    data = campaign(frame[frame["metric"].isin({key.metric for key in model.targets})], model.space)
    buckets = np.array([bucket(scale, Architecture.from_id(text)) for text in data.ids])
    return list(
        held_out_tests(
            data, model, train=buckets > TEST_BUCKET, test=buckets == TEST_BUCKET, job_size=JOB_SIZE,
            baselines=options.baselines, seed=options.seed,
        )
    )  # fmt: skip


# --- goals --------------------------------------------------------------------------------------------------------


def scale_goals(reports: Sequence[TargetReport], scale: str) -> list[Goal]:
    """Return what is to be reached at a scale."""
    space = f"gpt-{scale}"

    def kendall(metric: str, devices: Sequence[str], *, adjusted: bool = False) -> float:
        return mean_kendall(reports, space, metric, devices, adjusted=adjusted)

    latency = kendall("latency_ms", STEADY_GPUS)
    goals = [
        Goal("GPU latency, mean Kendall of 5, as published", space, latency, *_least(GPU_LATENCY[scale])),
        Goal("GPU latency, mean Kendall of 5, drift-adjusted", space,
             kendall("latency_ms", STEADY_GPUS, adjusted=True), GPU_LATENCY_ADJUSTED[scale]),
        ceiling_goal(reports, space, "latency_ms", CPUS, margin=0.02,
                     name="CPU latency, mean Kendall of 6, drift-adjusted"),
        Goal("CPU latency, mean Kendall of 6, as published", space, kendall("latency_ms", CPUS),
             FIRST_CPU_RAW[scale], first=FIRST_CPU_RAW[scale]),
        Goal("GPU energy, mean Kendall of 8, as published", space, kendall("energy_mj", GPUS),
             *_least(GPU_ENERGY[scale])),
        Goal("GPU energy, mean Kendall of 8, drift-adjusted", space, kendall("energy_mj", GPUS, adjusted=True), 0.92),
    ]  # fmt: skip
    for device in ("a100", "rtx2080"):
        goals.append(
            Goal(f"memory of {device}, Kendall", space, kendall("memory_mib", [device]), *_least(MEMORY[scale]))
        )
    goals.append(Goal("perplexity, Kendall", space, kendall("perplexity", ["any"]), *_least(PERPLEXITY[scale])))
    return goals + coverage_goals(
        reports, space, name="90 % intervals of targets with n >= 500", nominal=0.9, margin=0.02, least_rows=500
    )


def _least(limits: tuple[float, float]) -> tuple[float, float, float]:
    """Return lower limit, no upper limit, and the first fit, in the order of Goal's fields."""
    return limits[0], float("inf"), limits[1]


# --- output -------------------------------------------------------------------------------------------------------


def _header() -> dict[str, object]:
    return {
        "what": "the shipped surrogates on held-out architectures (hash bucket 1) of HW-GPT-Bench",
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python " + shlex.join(["benchmarks/run_surrogates.py", *sys.argv[1:]]),
        "machine": current_device("cpu").card,
        "versions": versions(),
    }


def save(output: Path, reports: Sequence[TargetReport], goals: Sequence[Goal], header: dict[str, object]) -> None:
    """Write everything as JSON, and tables as Markdown."""
    lines = [json.dumps(report.to_dict(), allow_nan=False) for report in reports]  # a line each: the file stays small
    head = json.dumps(header | {"goals": [goal.to_dict() for goal in goals]}, indent=2, allow_nan=False)
    body = ",\n    ".join(lines)
    write_text(output.with_suffix(".json"), f'{head[:-2]},\n  "targets": [\n    {body}\n  ]\n}}\n')
    write_text(output.with_suffix(".md"), markdown(reports, goals, header))


def markdown(reports: Sequence[TargetReport], goals: Sequence[Goal], header: dict[str, object]) -> str:
    """Return the tables, with how to read them."""
    parts = [
        "# Accuracy of the shipped surrogates",
        f"{header['date']}, `{header['command']}`. Test architectures: hash bucket 1, which nothing was fitted to or "
        "chosen by. *As published* are the medians of the tables; *drift-adjusted* are the same divided by the drift "
        "of their hour, which is estimated from training rows near them in time, never from themselves. Baselines are "
        "fitted to drift-adjusted training rows, like the surrogates.",
        "## Goals", goals_table(goals),
        "Values are rounded to three decimals before they are compared. With about 1,000 test rows the coverage of a "
        "perfect 90 % interval varies by 0.01 (standard deviation): one target in 20 falls outside 0.88 to 0.92 by "
        "chance.",
    ]  # fmt: skip
    for space in dict.fromkeys(report.space for report in reports):
        own = [report for report in reports if report.space == space]
        parts += [
            f"## {space}",
            "### Whole test set, as published", accuracy_table(own, adjusted=False),
            "### Whole test set, drift-adjusted", accuracy_table(own, adjusted=True),
            "### Inside each width, as published",
            "Widths from narrow to wide, parted by slashes.", width_table(own, adjusted=False),
            "### Inside each width, drift-adjusted", width_table(own, adjusted=True),
            "### Intervals", "Coverage and median width (percent of the prediction) at 50, 80 and 90 %.",
            interval_table(own),
            "### Kendall beside ceilings and baselines",
            "In brackets: inside widths, mean weighted by rows. *drift*: robust standard deviation of the drift. "
            "*split-half*: medians of odd against even repeats. *all repeats*: estimate of what a perfect prediction "
            "reaches with the median of all repeats (see `surrogates.noise.ceiling`). Baselines are scored against "
            "drift-adjusted values.",
            ceiling_table(own, BASELINES),
        ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def draw(output: Path, tests: dict[str, list[TargetTest]], reports: Sequence[TargetReport]) -> None:
    """Write the figures."""
    figures = {"calibration": calibration_figure(tests, title="Coverage of prediction intervals on held-out networks")}
    for space, group in tests.items():
        latency = [test for test in group if test.metric == "latency_ms"]
        energy = [test for test in group if test.metric == "energy_mj"]
        others = [test for test in group if test.metric not in ("latency_ms", "energy_mj")]
        figures |= {
            f"latency_{space}": predicted_figure(latency, title=f"{space}: latency (ms)", columns=5),
            f"energy_{space}": predicted_figure(energy, title=f"{space}: energy (J)", columns=5),
            f"others_{space}": predicted_figure(others, title=f"{space}: memory and quality", columns=4),
            f"devices_{space}": device_figure(latency, title=f"{space}: how devices rank the same networks by latency"),
            f"errors_{space}": error_figure(
                [report for report in reports if report.space == space], title=f"{space}: errors by width"
            ),
        }
    for name, figure in figures.items():
        with atomic_path(output.with_name(f"{output.name}_{name}.png")) as temporary:
            temporary.write_bytes(to_png(figure))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/hwgpt_bench"), help="folder of tidy tables")
    parser.add_argument("--models", type=Path, default=DATA, help="folder of the shipped models")
    parser.add_argument("--work", type=Path, default=None, help="folder that keeps the imported tables")
    parser.add_argument("--scales", nargs="+", default=list(SCALES), choices=SCALES)
    parser.add_argument("--no-baselines", dest="baselines", action="store_false", help="no linear model, no XGBoost")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="path without ending")
    return parser.parse_args()


if __name__ == "__main__":
    main()
