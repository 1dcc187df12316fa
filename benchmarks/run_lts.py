"""LTS verified against its published table: counts, rank correlations, fronts, and its search replayed with 20 seeds.

python benchmarks/run_lts.py --output benchmarks/results/lts
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import wilcoxon

from hw_profiles.device import current_device
from search.proxies.lts_fronts import front_agreements
from search.proxies.lts_genes import LTSSpace
from search.proxies.lts_oracles import COSTS, fit_scores
from search.proxies.lts_parameters import count_agreement
from search.proxies.lts_ranking import lts_ranking, ranking_frame
from search.proxies.lts_replay import replay_in_space, replay_on_table
from search.proxies.lts_table import LTSTable, read_lts_table
from supernet.artifacts import versions, write_json, write_text

TITLES = {
    "counts": "## Published parameter counts\n\nRows whose count the closed formula gives.",
    "ranks": "## Rank correlations with validation perplexity\n\nBootstrap of the networks, 95 %; Kendall minus that "
    "of decoder parameters (own formula) over the same resamples; of the k % best, the share in the proxy's k % best "
    "and Spearman inside them.",
    "fronts": "## Fronts by decoder parameters against fronts by perplexity\n\nAmong the saved networks of a device.",
    "fits": "## Costs as linear functions of sizes\n\nLeave-one-out scores of what the search in the whole space uses: "
    "1, decoder parameters, depth, width, depth x width, sum of d_inner, sum of heads. MAPE in percent.",
    "table": "## Replay on the saved networks\n\nEvolution (2 parents, 4 mutants, 4 crossovers; a child is the nearest "
    "network not looked at) against random order. The front by decoder parameters and latency of what was looked at is "
    "trained; recall and hypervolume are of the true front of perplexity and latency. `costs`: objectives of the "
    "search beside decoder parameters. Both searches of a seed start with the same 10 networks.",
    "space": "## Replay in the whole space\n\nLTS's sizes (20 parents, 40 mutants, 40 crossovers) on fitted costs. "
    "Hypervolume of (decoder parameters, latency, memory) as a share of everything found and saved; matched: saved "
    "networks that a found one is within 2 % of, or better, in all three. The first 100 networks are the same.",
}


def fits(table: LTSTable) -> pd.DataFrame:
    lines = []
    for name in table.names("pareto"):
        models = table.trained(name)
        scores = fit_scores(models, LTSSpace(models["backbone"].iloc[0]))
        lines += [{"experiment": name} | asdict(score) for score in scores]
    return pd.DataFrame(lines)


def replays(table: LTSTable, seeds: Sequence[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    on_table, in_space = [], []
    for name in table.names("pareto"):
        started, models = time.perf_counter(), table.trained(name)
        for costs in (("latency_ms",), COSTS):
            on_table += replay_on_table(models, seeds=seeds, costs=costs)
        in_space += replay_in_space(models, seeds=seeds)
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    return pd.DataFrame([asdict(s) for s in on_table]), pd.DataFrame([asdict(s) for s in in_space])


def compared(scores: pd.DataFrame, keys: list[str], values: list[str]) -> pd.DataFrame:
    """Return means over seeds of both searches, seeds won and lost by evolution, Wilcoxon's p of paired differences."""
    lines = []
    for key, rows in scores.groupby([*keys, "n_evaluations"], sort=False):
        line: dict[str, Any] = dict(zip([*keys, "n_evaluations"], key, strict=True))
        pair = rows.pivot_table(index="seed", columns="search", values=values)
        for value in values:
            a, b = pair[value]["evolution"].to_numpy(), pair[value]["random"].to_numpy()
            p = float(wilcoxon(a, b).pvalue) if (a != b).any() else 1.0
            line |= {f"{value}: evolution": a.mean(), f"{value}: random": b.mean()}
            line |= {f"{value}: won/lost": f"{(a > b).sum()}/{(a < b).sum()}", f"{value}: p": p}
        lines.append(line)
    return pd.DataFrame(lines)


def grid(frame: pd.DataFrame) -> str:
    rows = [[cell(value) for value in row] for row in frame.itertuples(index=False)]
    lines = [list(map(str, frame.columns)), ["---"] * frame.shape[1], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}" if abs(value) > 10 else f"{value:.4f}"


def markdown(parts: dict[str, pd.DataFrame], head: str) -> str:
    body = "\n\n".join(f"{TITLES[name]}\n\n{grid(frame)}" for name, frame in parts.items())
    return f"# LTS against its published table\n\n{head}\n\n{body}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/lts"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--output", default=None, help="path without ending: .json and .md are written")
    options = parser.parse_args()
    started, table = time.perf_counter(), read_lts_table(options.data)
    parts = {
        "counts": count_agreement(table.frame),
        "ranks": ranking_frame(lts_ranking(table)),
        "fronts": pd.DataFrame([agreement.record() for agreement in front_agreements(table)]),
        "fits": fits(table),
    }  # fmt: skip
    on_table, in_space = replays(table, range(options.seeds))
    parts["table"] = compared(on_table, ["experiment", "costs"], ["recall", "proxy_recall", "hypervolume"])
    parts["space"] = compared(in_space, ["experiment"], ["hypervolume", "matched", "n_front"])
    command = f"python benchmarks/run_lts.py --seeds {options.seeds}"
    card = current_device("cpu").card
    date = datetime.now(UTC).date().isoformat()
    text = markdown(parts, f"`{command}`, {date}, {card['cpu']}, {card['physical_cores']} cores, {options.seeds} seeds")
    print(text)
    if options.output:
        result: dict[str, Any] = {"date": date, "command": command, "machine": card, "versions": versions()}
        result["seconds"] = time.perf_counter() - started
        for name, frame in parts.items():
            result[name] = frame.astype(object).where(frame.notna(), None).to_dict("records")
        write_json(f"{options.output}.json", result)
        write_text(f"{options.output}.md", text)


if __name__ == "__main__":
    main()
