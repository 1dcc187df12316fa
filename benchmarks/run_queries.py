"""How fast the shipped benchmark answers: import, load, single architectures, batches, threads, memory.

python benchmarks/run_queries.py --output benchmarks/results/<date>_queries.json

Every figure is the median over repetitions, in one thread unless it says otherwise. Single queries are of distinct
architectures, all metrics and devices; "cold" ones are not in the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
from result_file import write_result

from supernet.encoding import from_genes, gene_sizes
from surrogates import Benchmark

_FRESH = """
import json, sys, time
start = time.perf_counter()
import surrogates
Benchmark = surrogates.Benchmark
imported = time.perf_counter()
b = Benchmark({space!r})
loaded = time.perf_counter()
arch = b.space.largest()
b.query(arch)
answered = time.perf_counter()
import psutil
print(json.dumps({{
    "import_s": imported - start, "load_s": loaded - imported, "first_frame_s": answered - loaded,
    "all_s": answered - start, "memory_mib": psutil.Process().memory_info().rss / 2**20,
    "torch": "torch" in sys.modules, "xgboost": "xgboost" in sys.modules,
}}))
"""


def fresh_process(space: str, rounds: int) -> dict[str, Any]:
    """Import, load and the first answer in new processes."""
    runs = []
    for _ in range(rounds):
        code = [sys.executable, "-c", _FRESH.format(space=space)]
        runs.append(json.loads(subprocess.run(code, capture_output=True, text=True, check=True).stdout))
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} | {
        "torch": any(run["torch"] for run in runs), "xgboost": any(run["xgboost"] for run in runs),
    }  # fmt: skip


def random_genes(b: Benchmark, n: int, seed: int) -> np.ndarray:
    """Distinct random genes (up to rare repeats)."""
    sizes = gene_sizes(b.space)
    return b.genes(np.random.default_rng(seed).integers(0, sizes, (n, len(sizes))))


def single(ask: Callable[[Any], Any], questions: Sequence[Any]) -> dict[str, float]:
    times = []
    for question in questions:
        start = time.perf_counter()
        ask(question)
        times.append(time.perf_counter() - start)
    low, middle, high = np.percentile(times, (10, 50, 90)) * 1e6
    return {"median_us": middle, "p10_us": low, "p90_us": high, "per_s": 1e6 / middle, "mean_per_s": 1 / np.mean(times)}


def batch(ask: Callable[[], Any], n: int, rounds: int) -> dict[str, float]:
    ask()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        ask()
        times.append(time.perf_counter() - start)
    return {"architectures": n, "median_s": statistics.median(times), "per_s": n / statistics.median(times)}


def in_threads(b: Benchmark, questions: Sequence[Any], n_threads: int) -> dict[str, float]:
    """All threads ask cold questions, each its own share of them."""
    barrier = threading.Barrier(n_threads + 1)

    def ask(share: Sequence[Any]) -> None:
        barrier.wait()
        for question in share:
            b.query(question, out="numpy")

    threads = [threading.Thread(target=ask, args=(questions[i::n_threads],)) for i in range(n_threads)]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return {"threads": n_threads, "per_s": len(questions) / (time.perf_counter() - start)}


def measure(space: str, *, n_single: int, n_batch: int, rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {"fresh_process": fresh_process(space, rounds)}
    b = Benchmark(space, cache_size=n_single)
    found["targets"] = len(b.columns().targets)
    archs = [from_genes(b.space, row) for row in random_genes(b, 6 * n_single, 0)]
    parts = [archs[i * n_single : (i + 1) * n_single] for i in range(6)]
    b.query(parts[5][0], quantiles=(0.05, 0.95))
    asks: dict[str, tuple[Callable[[Any], Any], Sequence[Any]]] = {
        "frame, cold": (b.query, parts[0]),
        "frame, cached": (b.query, parts[0]),
        "numpy, cold": (lambda arch: b.query(arch, out="numpy"), parts[1]),
        "numpy, cached": (lambda arch: b.query(arch, out="numpy"), parts[1]),
        "records, cold": (lambda arch: b.query(arch, out="records"), parts[2]),
        "frame with 2 quantiles, cold": (lambda arch: b.query(arch, quantiles=(0.05, 0.95)), parts[3]),
        "frame from an id, cold": (b.query, [arch.id for arch in parts[4]]),
    }
    found["single"] = {name: single(ask, questions) for name, (ask, questions) in asks.items()}
    genes = random_genes(b, n_batch, 1)
    few = [from_genes(b.space, row) for row in genes[: n_batch // 10]]
    found["batch"] = {
        "genes to numpy": batch(lambda: b.query(genes, out="numpy"), n_batch, rounds),
        "genes to frame": batch(lambda: b.query(genes), n_batch, rounds),
        "genes to numpy, latency on one device": batch(
            lambda: b.query(genes, "latency", "a100", out="numpy"), n_batch, rounds
        ),
        "genes to numpy with 2 quantiles": batch(
            lambda: b.query(genes, quantiles=(0.05, 0.95), out="numpy"), n_batch, rounds
        ),
        "genes to numpy with noise": batch(lambda: b.query(genes, noise=True, seed=0, out="numpy"), n_batch, rounds),
        "Architecture objects to frame": batch(lambda: b.query(few), len(few), rounds),
    }
    for n_threads in (1, 2):
        questions = list(random_genes(b, 4 * n_single, 10 + n_threads))
        found[f"threads_{n_threads}"] = in_threads(b, questions, n_threads)
    found["memory_after_mib"] = psutil.Process().memory_info().rss / 2**20
    return found


def show(space: str, found: dict[str, Any]) -> None:
    fresh = found["fresh_process"]
    print(f"\n{space}, {found['targets']} targets")
    print(
        "  new process: import {import_s:.2f} s, load {load_s:.2f} s, first frame {first_frame_s:.2f} s; "
        "together {all_s:.2f} s, {memory_mib:.0f} MiB; torch {torch}, xgboost {xgboost}".format(**fresh)
    )
    for name, row in found["single"].items():
        print(f"  {name:<42} {row['median_us']:8.0f} us   {row['per_s']:10,.0f} /s")
    for name, row in found["batch"].items():
        print(f"  {name:<42} {row['median_s']:8.2f} s    {row['per_s']:10,.0f} /s   ({row['architectures']:,})")
    for n_threads in (1, 2):
        print(
            f"  {f'numpy, cold, {n_threads} threads':<42} {'':>12} {found[f'threads_{n_threads}']['per_s']:10,.0f} /s"
        )
    print(f"  memory after all this: {found['memory_after_mib']:.0f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", nargs="+", default=["gpt-s", "gpt-m", "gpt-l"])
    parser.add_argument("--single", type=int, default=1000, help="architectures of each kind of single query")
    parser.add_argument("--batch", type=int, default=100_000, help="architectures of a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", default=None)
    options = parser.parse_args()
    sizes = {"n_single": options.single, "n_batch": options.batch, "rounds": options.rounds}
    results = {}
    for space in options.spaces:
        results[space] = measure(space, **sizes)
        show(space, results[space])
    if options.output:
        write_result(options.output, omp_num_threads=os.environ["OMP_NUM_THREADS"], spaces=results)


if __name__ == "__main__":
    main()
