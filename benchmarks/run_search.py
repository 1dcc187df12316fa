"""How long NSGA-II takes for 1,000 evaluations of closed-form objectives, in memory and saved after every batch.

python benchmarks/run_search.py --output benchmarks/results/search.json
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from hw_profiles.device import current_device
from search.algorithms import NSGA2
from search.objectives import CostObjective, NegatedObjective
from search.run import run_search
from supernet.artifacts import versions, write_json
from supernet.spaces import load_space


def seconds(space_name: str, population: int, *, saved: bool, evaluations: int) -> float:
    space = load_space(space_name)
    size = NegatedObjective(CostObjective("n_params_decoder", space.model_config))
    work = CostObjective("flops", space.model_config, seq_len=64)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run_search(
            space, [size, work], algorithm=partial(NSGA2, population=population), n_evaluations=evaluations,
            run_dir=Path(folder) if saved else None,
        )  # fmt: skip
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=1000)
    parser.add_argument("--output", default=None)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for space in ("tiny", "gpt-s", "gpt-l"):
        for population in (20, 100):
            for saved in (False, True):
                runs = [seconds(space, population, saved=saved, evaluations=options.evaluations)
                        for _ in range(options.rounds)]  # fmt: skip
                row = {"space": space, "population": population, "saved": saved, "median_s": statistics.median(runs)}
                rows.append(row | {"runs_s": runs})
                print(
                    "{space:6} population {population:3} saved {saved!s:5} {median_s:6.2f} s".format(**row), flush=True
                )
    if options.output:
        result = {
            "date": datetime.now(UTC).date().isoformat(),
            "command": f"python benchmarks/run_search.py --rounds {options.rounds} --evaluations {options.evaluations}",
            "machine": current_device("cpu").card,
            "versions": versions(),
            "rows": rows,
        }
        print(f"written to {write_json(options.output, result)}")


if __name__ == "__main__":
    main()
