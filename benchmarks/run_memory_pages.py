"""What memory in huge pages that are kept does to latency, its scatter and peak memory, by turns in fresh processes.

    python benchmarks/run_memory_pages.py --output benchmarks/results/DATE_memory_pages.md

Each round starts one process for each way of telling glibc's malloc (`supernet.huge_pages`): as the system does by
default, huge pages only, kept memory only, both. A process times forwards of a litgpt GPT with random weights, and
steps of training it (forward, backward, AdamW); the median of its calls counts, and all of its calls for the scatter.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from result_file import write_result

from hw_profiles.device import current_device
from supernet.artifacts import versions, write_text
from supernet.huge_pages import VARIABLE, in_use, with_huge_pages

DEFAULT = "default"
KEPT = "huge pages, kept"


def ways() -> Mapping[str, dict[str, str]]:
    """Return the environment of each way, the default one first."""
    plain = {name: value for name, value in os.environ.items() if name != VARIABLE}
    kept = with_huge_pages(plain)
    if not in_use(kept):
        raise SystemExit("this system has no transparent huge pages for glibc's malloc: there is nothing to compare")
    parts = kept[VARIABLE].split(":")
    huge = [part for part in parts if "hugetlb" in part]
    rest = [part for part in parts if part not in huge]
    return {
        DEFAULT: plain,
        "huge pages": plain | {VARIABLE: ":".join(huge)},
        "kept": plain | {VARIABLE: ":".join(rest)},
        KEPT: kept,
    }


def timed(options: argparse.Namespace) -> dict[str, Any]:
    """Time forwards and training steps in this process."""
    import torch
    from litgpt import GPT, Config

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = Config(
        block_size=options.tokens, vocab_size=49152, padded_vocab_size=49152, n_layer=30, n_head=9, n_embd=576,
        n_query_groups=3, head_size=64, rotary_percentage=1.0, parallel_residual=False, bias=False,
        norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP", intermediate_size=1536,
    )  # fmt: skip
    model, ids = GPT(config), torch.randint(0, 49152, (1, options.tokens))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def forward() -> None:
        with torch.inference_mode():
            model(ids)

    def step() -> None:
        logits = model(ids[:, : options.tokens // 2])
        torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1 : options.tokens // 2]).backward()
        optimizer.step()
        optimizer.zero_grad()

    found = {"forward": _calls(forward, options.calls)}
    found["peak_mib"] = {"forward": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    found["training step"] = _calls(step, max(3, options.calls // 2))
    found["peak_mib"]["training step"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def _calls(call: Callable[[], None], n: int) -> dict[str, list[float]]:
    for _ in range(2):
        call()
    found: dict[str, list[float]] = {"ms": [], "faults": [], "system_ms": []}
    for _ in range(n):
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        call()
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        found["ms"].append(1e3 * seconds)
        found["faults"].append(after.ru_minflt - before.ru_minflt)
        found["system_ms"].append(1e3 * (after.ru_stime - before.ru_stime))
    return found


def report(rounds: list[dict[str, dict[str, Any]]], options: argparse.Namespace) -> str:
    """Return the result as Markdown."""
    lines = [
        "# Memory in huge pages that are kept",
        "",
        f"`python {shlex.join(sys.argv)}`, {time.strftime('%Y-%m-%d')}, {current_device('cpu').card['cpu']}, "
        f"{options.threads} threads, float32.",
        "",
        f"SmolLM2-135M's shape with random weights; {len(rounds)} rounds, in each one fresh process for each way, "
        "by turns. ms: median of all calls. Ratio: to the default's median of the same round, median over rounds. "
        "Spread: (95th - 5th percentile) / median of one process's calls, median over rounds. Peak: of the process.",
    ]
    for task in ("forward", "training step"):
        tokens = options.tokens if task == "forward" else options.tokens // 2
        lines += [
            "", f"## {task.capitalize()}, {tokens} tokens", "",
            "| malloc | ms | ratio | spread | page faults | in the system, ms | peak, MiB |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]  # fmt: skip
        for way in rounds[0]:
            calls = [one[way][task] for one in rounds]
            own = [statistics.median(one["ms"]) for one in calls]
            base = [statistics.median(one[DEFAULT][task]["ms"]) for one in rounds]
            ratio = statistics.median(a / b for a, b in zip(own, base, strict=True))
            spread = statistics.median(_spread(one["ms"]) for one in calls)
            faults, system = (
                statistics.median([x for one in calls for x in one[name]]) for name in ("faults", "system_ms")
            )
            peak = statistics.median(one[way]["peak_mib"][task] for one in rounds)
            ms = statistics.median([x for one in calls for x in one["ms"]])
            cells = f"{ms:.0f} | {ratio:.2f} | {100 * spread:.0f} % | {faults:,.0f} | {system:.0f} | {peak:,.0f}"
            lines.append(f"| {way} | {cells} |")
    known = ", ".join(f"{name} {version}" for name, version in versions().items())
    return "\n".join([*lines, "", f"Versions: {known}", ""])


def _spread(values: list[float]) -> float:
    ordered = statistics.quantiles(values, n=20, method="inclusive")
    return (ordered[-1] - ordered[0]) / statistics.median(values)


def main() -> None:
    options = _options()
    if options.here:
        print(json.dumps(timed(options)))
        return
    rounds: list[dict[str, dict[str, Any]]] = []
    for number in range(options.rounds):
        found = {}
        for way, environment in ways().items():
            done = subprocess.run(
                [sys.executable, *sys.argv, "--here"], env=environment, check=True, capture_output=True, text=True
            )
            found[way] = json.loads(done.stdout.splitlines()[-1])
            print(f"round {number + 1}, {way}: {statistics.median(found[way]['forward']['ms']):.0f} ms", flush=True)
        rounds.append(found)
    text = report(rounds, options)
    write_text(options.output, text)
    write_result(options.output.with_suffix(".json"), rounds=rounds)
    print(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=12, help="timed forwards of a process")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--here", action="store_true", help="time in this process (used inside)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
