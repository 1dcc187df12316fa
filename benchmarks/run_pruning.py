"""The acceptance run of pruning: ours and the peers' methods at equal measured latency and at equal parameters.

    python benchmarks/run_pruning.py --output benchmarks/results/<date>_pruning.md

Stages, in order: prepare (moments of every calibration draw), one-shot (the tables), contract (six latency budgets),
recovery (equal tokens and learning rates, the dense network as control), zero-shot, supernet (the other route), report.
Every result is a file in --folder: a run that was cut goes on where it stopped, and --stages may ask for some only.
--smoke makes a run of a minute on a network of 0.26 M parameters; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from pruning_methods import CONTRACT, ONE_SHOT
from pruning_report import write_report
from pruning_stages import (
    METHODS,
    contract,
    of_our_networks,
    one_shot,
    prepare_all,
    recovery,
    remake_all,
    zero_shot_all,
)
from pruning_study import Study, StudySettings, default_settings, smoke_settings
from pruning_supernet import supernet_route

STAGES = ("prepare", "one-shot", "contract", "recovery", "zero-shot", "supernet", "report")


def settings_of(options: argparse.Namespace) -> StudySettings:
    """Return the settings that the options ask for."""
    base = smoke_settings() if options.smoke else default_settings()
    given = {
        "model": options.model, "n_draws": options.draws, "n_score_tokens": options.score_tokens,
        "seq_len": options.seq_len, "n_calibration_blocks": options.calibration_blocks, "dtype": options.dtype,
        "repeats": options.repeats, "threads": options.threads, "n_search_blocks": options.search_blocks,
        "mode": options.mode, "search_precision": options.search_precision,
    }  # fmt: skip
    return replace(base, **{name: value for name, value in given.items() if value is not None})


def run(study: Study, options: argparse.Namespace) -> None:
    """Run the stages that are asked for."""
    smoke = options.smoke
    steps = options.steps or (4 if smoke else 100)
    goals = [goal for goal in ONE_SHOT if not options.goals or goal.name in options.goals]
    budgets = [goal for goal in CONTRACT if goal.name in options.budgets] if options.budgets else list(CONTRACT)
    budgets = [goal for goal in budgets if not smoke or goal.target == 0.75]
    for report in options.adopt:
        taken = study.adopt(report, without=of_our_networks if options.remake else lambda name: False)
        print(f"--- {len(taken)} records of {report.name}", flush=True)
    if options.remake:
        print(f"--- our architectures of {options.remake.name}", flush=True)
        remake_all(study, options.remake, goals=goals)
    for stage in options.stages:
        print(f"--- {stage}", flush=True)
        if stage == "prepare":
            prepare_all(study)
        elif stage == "one-shot":
            one_shot(study, goals=goals, methods=options.methods)
        elif stage == "contract":
            contract(study, goals=budgets)
        elif stage == "recovery":
            recovery(
                study, steps=steps, learning_rates=options.learning_rates, n_baselines=options.recovered_baselines,
                precision=options.recovery_precision,
            )  # fmt: skip
        elif stage == "zero-shot":
            zero_shot_all(study, limit=options.limit if options.limit else (4 if smoke else 200))
        elif stage == "supernet":
            supernet_route(
                study, steps=steps, n_evaluations=options.evaluations or (4 if smoke else 100),
                precision=options.recovery_precision,
            )  # fmt: skip
        elif stage == "report":
            print(*write_report(study, options.output or study.folder / "report.md"), sep="\n")


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="of the run; default: runs/pruning/<model or smoke>")
    parser.add_argument("--output", type=Path, default=None, help="the Markdown file; a .json goes beside it")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--adopt", type=Path, nargs="+", default=[], help="reports (.json) with records to take over")
    parser.add_argument("--remake", type=Path, help="report (.json) whose architectures of ours get new weights")
    parser.add_argument("--smoke", action="store_true", help="stories260K, tiny settings")
    parser.add_argument("--model", default=None, help="checkpoint; default: smollm2-135m")
    parser.add_argument("--draws", type=int, default=None, help="calibration draws (3)")
    parser.add_argument("--score-tokens", type=int, default=None, help="first tokens of each reported text (16384)")
    parser.add_argument("--seq-len", type=int, default=None, help="tokens of a block (512)")
    parser.add_argument("--calibration-blocks", type=int, default=None, help="blocks for moments (64)")
    parser.add_argument("--goals", nargs="+", default=None, choices=[goal.name for goal in ONE_SHOT])
    parser.add_argument("--budgets", nargs="+", default=None, choices=[goal.name for goal in CONTRACT])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--dtype", default=None, help="of latency measurements (float32)")
    parser.add_argument("--repeats", type=int, default=None, help="paired samples of a latency, at most (40)")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; default: the physical cores")
    parser.add_argument("--steps", type=int, default=None, help="of recovery (100)")
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[1e-4, 2e-4, 4e-4])
    parser.add_argument("--recovery-precision", default="auto", choices=("auto", "32", "bf16"), help="(auto)")
    parser.add_argument("--recovered-baselines", type=int, default=2, help="the best ones that recover too")
    parser.add_argument("--limit", type=int, default=None, help="questions of each zero-shot task (200)")
    parser.add_argument("--evaluations", type=int, default=None, help="of the supernet's search (100)")
    parser.add_argument(
        "--search-blocks", type=int, default=None, help="blocks for the quality table and to compare candidates on (12)"
    )
    parser.add_argument(
        "--search-precision",
        default=None,
        choices=("auto", "32", "bf16"),
        help="of forwards on calibration text (auto)",
    )
    parser.add_argument("--mode", default=None, choices=("heterogeneous", "uniform"), help="of ours (heterogeneous)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the study."""
    options = parser().parse_args(arguments)
    settings = settings_of(options)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    name = "smoke" if options.smoke else Path(settings.model).stem
    study = Study(options.folder or Path("runs/pruning") / name, settings, progress=not options.quiet)
    run(study, options)


if __name__ == "__main__":
    main()
