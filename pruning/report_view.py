"""What a pruning report's tables and headline say: numbers formatted, nothing decided in HTML."""

from __future__ import annotations

from dataclasses import dataclass

from pruning.report_data import DENSE, OURS, BudgetLine, Network, PruneReport
from search.number_format import NONE, count, number

TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class KeyFigure:
    """A number at the top of the report."""

    value: str
    label: str
    detail: str


@dataclass(frozen=True)
class BudgetRow:
    """A limit as text; `verdict` says whether it holds."""

    metric: str
    asked: str
    limit: str
    predicted: str
    measured: str
    used: str
    verdict: str


@dataclass(frozen=True)
class NetworkRow:
    """A network as text; a ratio to the dense one stands under each size."""

    name: str
    series: str
    cells: tuple[tuple[str, str], ...]


def headline(report: PruneReport) -> str:
    """Say in a sentence what was asked, predicted and measured, and what it cost."""
    parts = []
    for line in report.budget:
        predicted = f", predicted {number(line.predicted, 4)}" if line.predicted is not None else ""
        measured = f", measured {number(line.measured, 4)}" if line.measured is not None else ""
        parts.append(f"asked {line.asked} {line.metric} (limit {number(line.limit, 4)}){predicted}{measured}")
    dense, ours = report.of_series(DENSE), report.of_series(OURS)
    if dense and ours:
        for text in report.texts[:1]:
            before, after = dense.perplexity.get(text), ours.perplexity.get(text)
            if before and after:
                parts.append(f"perplexity {number(before, 4)} before, {number(after, 4)} after ({text})")
    return f"{report.model}: " + ("; ".join(parts) or f"pruned to {report.pruned.n_layer} blocks")


def key_figures(report: PruneReport) -> list[KeyFigure]:
    """Return the key figures that the report has numbers for."""
    dense, ours = report.of_series(DENSE), report.of_series(OURS)
    if dense is None or ours is None:
        return []
    found = []
    if ours.latency_ratio is not None:
        detail = f"{number(ours.latency_ms)} ms, was {number(dense.latency_ms)}" if ours.latency_ms else report.workload
        found.append(KeyFigure(f"{ours.latency_ratio:.3f}", "latency, of the dense model", detail))
    if ours.n_params and dense.n_params:
        share = f"{100 * ours.n_params / dense.n_params:.1f} % of {count(dense.n_params)}"
        found.append(KeyFigure(count(ours.n_params), "parameters", share))
    for text in report.texts[:2]:
        before, after = dense.perplexity.get(text), ours.perplexity.get(text)
        if before and after:
            found.append(
                KeyFigure(number(after), f"perplexity, {text}", f"was {number(before)} ({after / before:.2f}{TIMES})")
            )
    if ours.kv_cache_mib is not None and dense.kv_cache_mib:
        was = f"was {number(dense.kv_cache_mib)}"
        found.append(KeyFigure(number(ours.kv_cache_mib), "MiB of KV cache", was))
    return found


def budget_rows(report: PruneReport) -> list[BudgetRow]:
    """Return the budget as rows of text."""
    return [_budget_row(line) for line in report.budget]


def _budget_row(line: BudgetLine) -> BudgetRow:
    verdict = {None: "not measured", True: "holds", False: "missed"}[line.holds]
    used = f"{100 * line.used:.1f} %" if line.used is not None else NONE
    least = "at least " if line.higher_is_better else "at most "
    return BudgetRow(
        line.metric, line.asked, least + number(line.limit, 4), number(line.predicted, 4), number(line.measured, 4),
        used, verdict,
    )  # fmt: skip


def columns(report: PruneReport) -> list[tuple[str, str]]:
    """Return heading and unit of the columns of the table that some network has a number for."""
    return [(title, unit) for title, unit, _ in _used_columns(report)]


def network_rows(report: PruneReport) -> list[NetworkRow]:
    """Return the networks of the table, the dense one and ours first, others by perplexity."""
    dense, used = report.of_series(DENSE), _used_columns(report)
    rows = [network for network in report.networks if network.in_table]
    rows.sort(key=lambda n: (n.series != DENSE, n.series != OURS, min(n.perplexity.values(), default=0.0)))
    return [NetworkRow(n.name, n.series, tuple(_cell(n, dense, key, report) for _, _, key in used)) for n in rows]


_COLUMNS = (
    ("Parameters", "", "n_params"), ("Weights", "MiB", "memory_mib"), ("KV cache", "MiB", "kv_cache_mib"),
    ("Latency", "ms", "latency_ms"), ("Latency", "of dense", "latency_ratio"),
    ("Throughput", "tokens/s", "tokens_per_s"),
)  # fmt: skip


def _used_columns(report: PruneReport) -> list[tuple[str, str, str]]:
    shown = [network for network in report.networks if network.in_table]
    columns = [column for column in _COLUMNS if any(getattr(n, column[2]) is not None for n in shown)]
    texts = [("Perplexity", text, f"perplexity:{text}") for text in report.texts]
    return columns + [column for column in texts if any(column[1] in n.perplexity for n in shown)]


def _cell(network: Network, dense: Network | None, key: str, report: PruneReport) -> tuple[str, str]:
    """Return a value and, smaller, its ratio to the dense model's (of the latency ratio, its 95 % interval)."""
    value = _value(network, key)
    if value is None:
        return NONE, ""
    if key == "latency_ratio":
        low, high = network.latency_low, network.latency_high
        return f"{value:.3f}", f"{low:.3f} to {high:.3f}" if low is not None and high is not None else ""
    text = count(int(value)) if key == "n_params" else number(value)
    whole = _value(dense, key) if dense is not None and dense is not network else None
    return text, f"{value / whole:.2f}{TIMES}" if whole else ""


def _value(network: Network, key: str) -> float | None:
    if key.startswith("perplexity:"):
        return network.perplexity.get(key.removeprefix("perplexity:"))
    value: float | None = getattr(network, key)
    return value


def duration(seconds: float) -> str:
    """Return a duration as people say it.

    Example:
        >>> duration(4.2), duration(75), duration(7300)
        ('4.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
