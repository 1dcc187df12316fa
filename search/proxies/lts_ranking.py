"""The table of `paretolm proxies lts`: every size proxy of every experiment, decoder parameters beside it. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from search.proxies.lts_table import LTSTable
from search.proxies.rank_correlations import PERCENTS, Interval, RankCorrelation, rank_correlations

PROXIES = (
    "params_decoder", "params_decoder_formula", "params_attention", "params_ffn", "params_total", "n_layer", "d_model",
)  # fmt: skip
BASELINE = "params_decoder_formula"  # equal to params_decoder but for the experiment that was counted wrongly


def lts_ranking(
    table: LTSTable,
    *,
    experiments: Sequence[str] | None = None,
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> list[tuple[str, RankCorrelation]]:
    """Return how each proxy ranks the trained networks of each experiment by validation perplexity.

    Args:
        table: all networks.
        experiments: names; None for all.
        seed: of the bootstrap, the same for every experiment.
        n_resamples: of the bootstrap.
        level: of the intervals.

    Raises:
        KeyError: there is no such experiment.
    """
    found = []
    for name in table.names() if experiments is None else experiments:
        models = table.trained(name)
        proxies = {proxy: models[proxy].to_numpy(dtype=np.float64) for proxy in PROXIES}
        ranked = rank_correlations(
            proxies, models["valid_ppl"], baseline=BASELINE, rng=np.random.default_rng(seed), n_resamples=n_resamples,
            level=level,
        )  # fmt: skip
        found += [(name, correlation) for correlation in ranked]
    return found


def ranking_frame(ranking: Sequence[tuple[str, RankCorrelation]]) -> pd.DataFrame:
    """Return one row a proxy and experiment: intervals as columns _low and _high, top k as top10_common_ratio, ..."""
    return pd.DataFrame([_record(name, correlation) for name, correlation in ranking])


def _record(experiment: str, c: RankCorrelation) -> dict[str, Any]:
    record: dict[str, Any] = {"experiment": experiment, "n": c.n, "proxy": c.proxy}
    record |= _columns("spearman", c.spearman) | _columns("kendall", c.kendall)
    record |= {"decoder_spearman": c.baseline_spearman, "decoder_kendall": c.baseline_kendall}
    record |= _columns("kendall_minus_decoder", c.kendall_gain)
    for top in c.top:
        record |= {f"top{top.percent:g}_common_ratio": top.common_ratio, f"top{top.percent:g}_spearman": top.spearman}
    return record


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def ranking_text(table: LTSTable, ranking: Sequence[tuple[str, RankCorrelation]], *, level: float = 0.95) -> str:
    """Return the ranking as one table for each experiment, at most 120 columns wide."""
    from surrogates.query_frame import aligned

    known = {e.name: e for e in table.experiments}
    share = f"[{100 * level:g} %]"
    heads = ["proxy", f"Spearman {share}", f"Kendall {share}", "decoder", f"difference {share}"]
    heads += [f"top {percent:g}" for percent in PERCENTS]
    blocks = []
    for name in dict.fromkeys(experiment for experiment, _ in ranking):
        e = known[name]
        where = f", {e.device}" if e.device else ""
        title = f"{name}: {e.n_trained} {e.backbone} networks on {e.dataset}{where}"
        rows = [_cells(c) for experiment, c in ranking if experiment == name]
        blocks.append(f"{title}\n{aligned([heads, *rows], left=1)}")
    return "\n\n".join([*blocks, _notes(table)])


def _cells(c: RankCorrelation) -> list[str]:
    tops = {top.percent: f"{100 * top.common_ratio:.0f} {_short(top.spearman)}" for top in c.top}
    return [
        c.proxy, f"{c.spearman.value:.4f} {_ends(c.spearman)}", f"{c.kendall.value:.4f} {_ends(c.kendall)}",
        f"{c.baseline_kendall:.4f}", f"{c.kendall_gain.value:+.4f} {_ends(c.kendall_gain)}",
        *(tops.get(percent, "") for percent in PERCENTS),
    ]  # fmt: skip


def _ends(interval: Interval) -> str:
    return f"[{_short(interval.low)} {_short(interval.high)}]"


def _short(value: float) -> str:
    """Return two digits without the leading zero."""
    return "nan" if np.isnan(value) else f"{value:.2f}".replace("0.", ".", 1)


def _notes(table: LTSTable) -> str:
    untrained = sum(e.n - e.n_trained for e in table.experiments)
    return "\n".join(
        [
            "Rank correlations of each proxy with negated validation perplexity; intervals by bootstrap of networks.",
            f"decoder: Kendall of {BASELINE} (decoder parameters by the formula of a network's own backbone);",
            "  difference: Kendall of the proxy minus that, over the same resamples.",
            "top k: of the k % best networks, how many percent the proxy has among its k % best; Spearman inside them.",
            f"{untrained} networks without a perplexity are left out.",
        ]
    )
