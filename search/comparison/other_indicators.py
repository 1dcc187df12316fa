"""Who leads by other indicators after the final budget: IGD+, additive epsilon, area under the regret curve."""

from __future__ import annotations

from search.comparison.analysis import Analysis
from search.comparison.method_styles import method_label
from search.comparison.records import ALL
from search.comparison.wording import listed

INDICATORS = {
    "igd_plus": "IGD+",
    "epsilon": "additive epsilon",
    "mean_log_regret": "the area under the log regret curve",
}


def indicator_text(analysis: Analysis) -> str:
    """Say who leads by other indicators at the final budget, and whether that is who leads by regret."""
    ranked = [m.method for m in analysis.whole[analysis.final].ranked if m.method not in analysis.points]
    if len(ranked) < 2:
        return ""
    means = indicator_means(analysis)
    best = {name: min(ranked, key=lambda m: means[m][name]) for name in INDICATORS}
    parts = [f"{method_label(m)} by {INDICATORS[name]}" for name, m in best.items()]
    return (
        f"Mean over cases after {analysis.final} evaluations: the best is {listed(parts)}; by average rank of the "
        f"regret it is {method_label(ranked[0])}."
    )


def indicator_means(analysis: Analysis) -> dict[str, dict[str, float]]:
    """Return by method the mean over main cases of the median IGD+, epsilon and mean log10 regret, whole space.

    After the final number of evaluations; of shorter runs and of points at their end.
    """
    table = analysis.scores.table
    rows = table[(table["panel"] == ALL) & table["case"].isin(analysis.main)]
    at_final = rows["n_evaluations"] == analysis.final
    rows = rows[at_final | (rows["is_last"] & (rows["is_point"] | (rows["n_evaluations"] < analysis.final)))]
    columns = list(INDICATORS)
    medians = rows.groupby(["method", "case"], sort=False)[columns].median()
    means = medians.groupby("method").mean()
    return {str(m): {c: float(row[c]) for c in columns} for m, row in means.iterrows()}
