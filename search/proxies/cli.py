"""The command that checks proxies of quality against published tables. Plain options: people type them. No torch."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from search.proxies.lts_table import LTSTable

FORMATS = ("table", "csv", "json")
DEFAULT_DATA = "../shared/lts"


def proxies() -> int:
    """Proxies of quality that need no training, against published tables: rank correlations, fronts, counts."""
    parser = argparse.ArgumentParser(prog="paretolm proxies", description=(proxies.__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="table", required=True, metavar="TABLE")
    lts = commands.add_parser("lts", help="LTS's 1,121 Transformers: how sizes rank them (arXiv 2203.02094)")
    add = lts.add_argument
    add("--data", default=DEFAULT_DATA, metavar="PATH", help=f"folder or file of the table (default: {DEFAULT_DATA})")
    add("--show", choices=tuple(_SHOWN), default="ranks", help=_SHOW_HELP)
    add("--experiment", nargs="+", action="extend", metavar="NAME", help="only these (default: all)")
    add("--format", choices=FORMATS, default="table", help="default: table")
    add("--resamples", type=int, default=2000, metavar="N", help="of the bootstrap (default: 2000)")
    add("--level", type=float, default=0.95, metavar="P", help="of the intervals (default: 0.95)")
    add("--seed", type=int, default=0, metavar="S", help="of the bootstrap (default: 0)")
    options = parser.parse_args(sys.argv[1:])
    try:
        print(_lts(options))
    except (ValueError, KeyError, FileNotFoundError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"{parser.prog} {options.table}: {message}", file=sys.stderr)
        return 1
    return 0


def _lts(options: argparse.Namespace) -> str:
    from search.proxies.lts_table import read_lts_table

    if options.resamples < 1 or not 0 < options.level < 1:
        raise ValueError(f"--resamples {options.resamples} --level {options.level}: give N >= 1 and 0 < P < 1")
    table = read_lts_table(options.data)
    for name in options.experiment or ():
        table.trained(name)  # says which names there are
    frame, text = _SHOWN[options.show](table, options)
    if options.format == "json":
        return json.dumps(json.loads(frame.to_json(orient="records", double_precision=15)), indent=2)  # NaN is null
    return frame.to_csv(index=False).rstrip("\n") if options.format == "csv" else text()


Shown = tuple["pd.DataFrame", Callable[[], str]]


def _ranks(table: LTSTable, options: argparse.Namespace) -> Shown:
    from search.proxies.lts_ranking import lts_ranking, ranking_frame, ranking_text

    found = lts_ranking(
        table, experiments=options.experiment, seed=options.seed, n_resamples=options.resamples, level=options.level
    )
    return ranking_frame(found), lambda: ranking_text(table, found, level=options.level)


def _fronts(table: LTSTable, options: argparse.Namespace) -> Shown:
    import pandas as pd

    from search.proxies.lts_fronts import OBJECTIVES, front_agreement

    names = options.experiment or table.names("pareto")
    found = [front_agreement(table.trained(name), costs) for name in names for costs in OBJECTIVES]
    frame = pd.DataFrame([agreement.record() for agreement in found])
    note = (
        "true: front of perplexity and costs; proxy: front of decoder parameters and costs, among the saved networks.\n"
        "hypervolume: of the proxy front's perplexities and costs, as a share of the true front's.\n"
        "recall: share of the true front on the proxy's; chance_recall: among as many networks drawn at random."
    )
    return frame, lambda: f"{_plain(frame)}\n\n{note}"


def _counts(table: LTSTable, options: argparse.Namespace) -> Shown:
    from search.proxies.lts_parameters import count_agreement

    rows = table.frame
    frame = count_agreement(rows if options.experiment is None else rows[rows["experiment"].isin(options.experiment)])
    note = (
        "Rows whose published count equals the closed formula. random_GPT2_lm1b holds GPT-2 networks that were\n"
        "counted with Transformer-XL's formula; params_decoder_formula has the right count of every row."
    )
    return frame, lambda: f"{_plain(frame)}\n\n{note}"


def _plain(frame: pd.DataFrame) -> str:
    from surrogates.query_frame import aligned

    rows = [[f"{c:.3f}" if isinstance(c, float) else str(c) for c in row] for row in frame.itertuples(index=False)]
    return aligned([list(map(str, frame.columns)), *rows], left=2)


_SHOWN: dict[str, Callable[[LTSTable, argparse.Namespace], Shown]] = {
    "ranks": _ranks, "fronts": _fronts, "counts": _counts,
}  # fmt: skip
_SHOW_HELP = (
    "ranks: Spearman, Kendall and top-k of every size (default); fronts: fronts by decoder parameters against fronts "
    "by perplexity; counts: closed formulas against published parameter counts"
)
