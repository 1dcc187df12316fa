"""What a supernet costs beside the dense model: litgpt, paretolm and (where it is installed) whittle, interleaved.

    python benchmarks/run_supernet.py --output benchmarks/results/supernet.json

Every figure is a ratio of two things timed in turn, A B A B ..., in one process: the median over rounds of the ratio
of one round, with its quartiles. Peak memory is the high-water mark of a child process above the mark after imports.
whittle has dependencies of its own: give it an environment that also has paretolm, and run this script with it.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import litgpt
import torch
import torch.nn.functional as F

from supernet.architecture import Architecture
from supernet.artifacts import versions, write_json
from supernet.extract import extract
from supernet.model import Supernet
from supernet.optimizer import SubnetAdamW, trained_selections

SIZES = {"n_layer": 12, "n_embd": 512, "n_head": 8, "head_size": 64, "block_size": 256, "padded_vocab_size": 4096}
VARIANTS: dict[str, dict[str, Any]] = {
    "mha": {**SIZES, "intermediate_size": 2048},
    "gqa": {
        **SIZES, "intermediate_size": 1408, "n_query_groups": 2, "mlp_class_name": "LLaMAMLP",
        "norm_class_name": "RMSNorm", "bias": False, "parallel_residual": False, "rotary_percentage": 1.0,
    },
}  # fmt: skip
BARS = {"full forward": 1.01, "half forward": 1.05, "half forward+backward": 1.10, "half training step": 1.20}
Step = Callable[[], Any]


def half(config: litgpt.Config) -> Architecture:
    groups = 4 if config.n_query_groups == config.n_head else config.n_query_groups // 2
    return Architecture.uniform(
        n_embd=256, n_layer=6, n_head=4, n_query_groups=groups, intermediate_size=config.intermediate_size // 2,
        bias=config.bias,
    )  # fmt: skip


def compare(measured: Step, reference: Step, rounds: int) -> dict[str, float]:
    """Return the median and quartiles of measured / reference over rounds, after one warm-up round."""
    ratios, times = [], []
    for round_ in range(rounds + 1):
        pair = []
        for step in (measured, reference) if round_ % 2 else (reference, measured):
            start = time.perf_counter()
            step()
            pair.append(time.perf_counter() - start)
        a, b = pair if round_ % 2 else pair[::-1]
        if round_:
            ratios.append(a / b)
            times.append((a, b))
    low, median, high = statistics.quantiles(ratios, n=4)
    return {
        "ratio": median, "q1": low, "q3": high,
        "ms": 1e3 * statistics.median(a for a, _ in times),
        "reference_ms": 1e3 * statistics.median(b for _, b in times),
        "rounds": rounds,
    }  # fmt: skip


def loss(model: torch.nn.Module, idx: torch.Tensor, *arch: Architecture) -> torch.Tensor:
    return F.cross_entropy(model(idx, *arch).flatten(0, 1), idx.flatten())


def forward(model: torch.nn.Module, idx: torch.Tensor, *arch: Architecture) -> Step:
    def step() -> None:
        with torch.inference_mode():
            model(idx, *arch)

    return step


def backward(model: torch.nn.Module, idx: torch.Tensor, *arch: Architecture) -> Step:
    def step() -> None:
        model.zero_grad()
        loss(model, idx, *arch).backward()

    return step


def training(
    model: torch.nn.Module, idx: torch.Tensor, *arch: Architecture, optimizer: type = torch.optim.AdamW
) -> Step:
    chosen = optimizer(model.parameters(), lr=1e-5, fused=True)
    run = backward(model, idx, *arch)

    def step() -> None:
        run()
        if arch and isinstance(chosen, SubnetAdamW):
            chosen.step(selections=trained_selections(model, arch))
        else:
            chosen.step()

    return step


def whittle_model(config: litgpt.Config, weights: dict[str, torch.Tensor], arch: Architecture | None) -> Any:
    """Return whittle's super-network with these weights, set to `arch` (None: never set); None if not installed."""
    try:
        from whittle.models.gpt import GPT
    except ImportError:
        return None
    config.fix_head_size = True
    model = GPT(config)
    model.load_state_dict(weights)
    if arch is not None:
        model.set_sub_network(
            sub_network_n_embd=arch.n_embd,
            sub_network_intermediate_size=arch.intermediate_size[0],
            sub_network_num_heads=arch.n_head[0],
            sub_network_n_layers=arch.n_layer,
            sub_network_query_groups=arch.n_query_groups[0],
            sub_network_head_size=config.head_size,
        )
    return model


def rows_of(variant: str, rounds: int) -> list[dict[str, Any]]:
    """Return every comparison of one variant."""
    torch.manual_seed(0)
    config = litgpt.Config(**VARIANTS[variant])
    supernet, dense = Supernet(config), litgpt.GPT(config)
    dense.load_state_dict(supernet.state_dict())
    arch = half(config)
    alone = extract(supernet, arch)
    whole = Architecture.uniform(
        n_embd=512, n_layer=12, n_head=8, n_query_groups=config.n_query_groups,
        intermediate_size=config.intermediate_size, bias=config.bias,
    )  # fmt: skip
    peers = {
        key: whittle_model(litgpt.Config(**VARIANTS[variant]), supernet.state_dict(), a)
        for key, a in (("whittle", None), ("whittle set", whole), ("whittle half", arch))
    }
    rows: list[dict[str, Any]] = []

    def add(what: str, who: str, measured: Step, reference: Step, n: int) -> None:
        row = {"variant": variant, "what": what, "who": who, "bar": BARS.get(what) if who == "paretolm" else None}
        rows.append(row | compare(measured, reference, n))
        print("{variant:4} {what:38} {who:24} {ratio:6.3f} [{q1:.3f}, {q3:.3f}]".format(**rows[-1]), flush=True)

    for tokens, shape, scale in (("", (4, 256), 1), ("one token, ", (1, 1), 20)):
        idx, n = torch.randint(config.padded_vocab_size, shape), rounds * scale
        add(f"{tokens}full forward", "paretolm", forward(supernet, idx), forward(dense, idx), n)
        add(f"{tokens}full forward", "paretolm, arch=largest", forward(supernet, idx, whole), forward(dense, idx), n)
        add(f"{tokens}half forward", "paretolm", forward(supernet, idx, arch), forward(alone, idx), n)
        for key, what in (("whittle", "full"), ("whittle set", "full"), ("whittle half", "half")):
            if peers[key] is not None:
                reference = dense if what == "full" else alone
                add(f"{tokens}{what} forward", key, forward(peers[key], idx), forward(reference, idx), n)
    idx = torch.randint(config.padded_vocab_size, (4, 256))
    add("half forward+backward", "paretolm", backward(supernet, idx, arch), backward(alone, idx), rounds)
    add(
        "half training step",
        "paretolm",
        training(supernet, idx, arch, optimizer=SubnetAdamW),
        training(alone, idx),
        rounds,
    )
    add("half training step", "paretolm, plain AdamW", training(supernet, idx, arch), training(alone, idx), rounds)
    add("full training step", "paretolm", training(supernet, idx), training(dense, idx), rounds)
    if peers["whittle half"] is not None:
        peer = peers["whittle half"]
        add("half forward+backward", "whittle half", backward(peer, idx), backward(alone, idx), rounds)
        add("half training step", "whittle half", training(peer, idx), training(alone, idx), rounds)
    return rows


def high_water_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def memory_child(variant: str, who: str) -> None:
    """Print the peak memory, in MiB above the imports, of three training steps."""
    config = litgpt.Config(**VARIANTS[variant])
    before = high_water_mib()
    arch = (half(config),) if "half" in who else ()
    model: Any = Supernet(config) if "supernet" in who else litgpt.GPT(config)
    if who == "whittle":
        from whittle.models.gpt import GPT

        config.fix_head_size = True
        model = GPT(config)
    optimizer = SubnetAdamW if arch else torch.optim.AdamW
    step = training(model, torch.randint(config.padded_vocab_size, (4, 256)), *arch, optimizer=optimizer)
    for _ in range(3):
        step()
    print(high_water_mib() - before)


def memory_rows(variant: str, whos: list[str]) -> list[dict[str, Any]]:
    peaks = {}
    for who in ["litgpt", *whos]:
        command = [sys.executable, __file__, "--memory-child", variant, who]
        runs = [
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1] for _ in range(3)
        ]
        peaks[who] = statistics.median(map(float, runs))
    rows = [
        {"variant": variant, "what": "peak memory of training", "who": who, "ratio": peak / peaks["litgpt"],
         "mib": peak, "bar": 1.05 if who == "supernet" else None}
        for who, peak in peaks.items()
    ]  # fmt: skip
    for row in rows:
        print("{variant:4} {what:38} {who:24} {ratio:6.3f} ({mib:.0f} MiB)".format(**row), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", default=None)
    parser.add_argument("--memory-child", nargs=2, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_child:
        memory_child(*options.memory_child)
        return
    try:
        whittle = [metadata.version("whittle")]
    except metadata.PackageNotFoundError:
        whittle = []
    rows = [row for variant in VARIANTS for row in rows_of(variant, options.rounds)]
    for variant in VARIANTS:
        rows += memory_rows(variant, ["supernet", "supernet half", *(["whittle"] if whittle else [])])
    missed = [r for r in rows if r["bar"] is not None and r["ratio"] > r["bar"]]
    print(f"{len([r for r in rows if r['bar'] is not None]) - len(missed)} bars met, missed: {missed or 'none'}")
    if options.output:
        from hw_profiles.device import current_device

        result = {
            "date": datetime.now(UTC).date().isoformat(),
            "command": f"python benchmarks/run_supernet.py --rounds {options.rounds} --threads {options.threads}",
            "machine": current_device("cpu", threads=options.threads).card,
            "platform": platform.platform(),
            "versions": versions() | ({"whittle": whittle[0]} if whittle else {}),
            "rows": rows,
        }
        print(f"written to {write_json(options.output, result)}")


if __name__ == "__main__":
    main()
