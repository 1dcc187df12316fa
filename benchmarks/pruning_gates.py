"""What the acceptance run asks for, and whether it was reached: ratios of perplexity with standard errors.

A ratio is exp of the mean difference of losses, paired by draw and block. Its standard error takes blocks and draws as
two samples: var(means over draws) / blocks + var(means over blocks) / draws.

Shapes: D draws, N blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pruning_methods import OURS
from pruning_stages import DENSE

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """A ratio that ours is to keep.

    Attributes:
        goal: name of the goal.
        peers: methods; the best of them counts.
        limit: the largest ratio.
        strict: whether the limit itself is already too much.
    """

    goal: str
    peers: tuple[str, ...]
    limit: float
    strict: bool = False


ASKED = (
    Asked("prefill -25%", ("shortgpt",), 0.70),
    Asked("prefill -25%", ("wanda-sp",), 0.50),
    Asked("prefill -25%", ("flap", "flap-global"), 0.65),
    Asked("prefill -25%", ("obs-ls", "iterative-drop"), 1.0, strict=True),
    Asked("prefill -25%", (DENSE,), 2.1),
    Asked("trunk parameters -25%", ("wanda-sp",), 0.74),
    Asked("trunk parameters -25%", ("flap", "flap-global"), 0.76),
    Asked("trunk parameters -25%", ("obs-ls",), 0.86),
    Asked("trunk parameters -25%", (DENSE,), 1.42),
    Asked("trunk parameters -12.5%", (DENSE,), 1.14),
)
AFTER_RECOVERY = 0.95
OUR_TABLE = "parameter-choice"  # a baseline that chooses by our quality table, without the device


@dataclass(frozen=True)
class Gate:
    """Something asked for and what was found; `found` is None where it was not measured."""

    what: str
    limit: str
    found: float | None
    stderr: float | None
    passed: bool | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def losses_at_target(record: Record, text: str) -> np.ndarray:
    """Return the losses of a method at its target, (N,).

    Where the method's steps are too coarse, log perplexity is interpolated between the networks below and above.
    """
    below = np.array(record["losses"][text])
    if "above" not in record:
        return below
    share = (record["target"] - record["ratio"]) / (record["above"]["ratio"] - record["ratio"])
    return (1 - share) * below + share * np.array(record["above"]["losses"][text])


def losses_of(records: Sequence[Record], goal: str, method: str, text: str, dense: Record) -> np.ndarray | None:
    """Return the losses of a method for a goal, (D, N); None where it has none."""
    if method == DENSE:
        draws = sorted({r["draw"] for r in records if r["goal"] == goal}) or [0]
        return np.tile(np.array(dense["losses"][text]), (len(draws), 1))
    own = [r for r in records if r["goal"] == goal and r["method"] == method and "losses" in r]
    if not own:
        return None
    return np.array([losses_at_target(r, text) for r in sorted(own, key=lambda r: r["draw"])])


def ratio(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Return the ratio of perplexities of (D, N) losses and its standard error."""
    n = min(len(ours), len(theirs))
    difference = ours[:n] - theirs[:n]
    middle = math.exp(min(float(difference.mean()), 500.0))
    variance = sum(
        float(means.var(ddof=1)) / len(means) for means in (difference.mean(0), difference.mean(1)) if len(means) > 1
    )
    return middle, middle * math.sqrt(variance)


def one_shot_gates(records: Sequence[Record], dense: Record, text: str) -> list[Gate]:
    """Return the gates on networks that were not trained."""
    gates = []
    for asked in ASKED:
        own = losses_of(records, asked.goal, OURS, text, dense)
        peers = {name: losses_of(records, asked.goal, name, text, dense) for name in asked.peers}
        known = {name: losses for name, losses in peers.items() if losses is not None}
        sign = "<" if asked.strict else "<="
        if own is None or not known:
            what = f"{asked.goal}: ours / {' or '.join(asked.peers)}"
            gates.append(Gate(what, f"{sign} {asked.limit:g}", None, None, None))
            continue
        best = min(known, key=lambda name: float(known[name].mean()))
        found, stderr = ratio(own, known[best])
        passed = found < asked.limit if asked.strict else found <= asked.limit
        gates.append(Gate(f"{asked.goal}: ours / {best}", f"{sign} {asked.limit:g}", found, stderr, passed))
    return gates


def contract_gates(records: Sequence[Record]) -> list[Gate]:
    """Return the gates of the budget contract: kept, and used."""
    gates = []
    for r in records:
        measured = r["said"]["measured"]
        width = (measured["high"] - measured["low"]) / 4  # the interval is one of 95 %
        found = measured["ratio"]
        gates.append(Gate(f"{r['goal']}: measured", f"<= {r['target']:g}", found, width, found <= r["target"]))
        used = found / r["target"]
        gates.append(Gate(f"{r['goal']}: used", ">= 0.95", used, width / r["target"], used >= 0.95))
    return gates


def recovery_gates(records: Sequence[Record], text: str) -> list[Gate]:
    """Return the gates after equal recovery: to the best baseline, and to the best one that peers have."""
    own = {r["method"]: np.array([r["losses"][text]]) for r in records}
    baselines = [name for name in own if name not in (OURS, DENSE)]
    limit = f"<= {AFTER_RECOVERY}"
    if OURS not in own or not baselines:
        return [Gate("after recovery: ours / the best baseline", limit, None, None, None)]
    best = min(baselines, key=lambda name: float(own[name].mean()))
    found = [(f"after recovery: ours / {best}", *ratio(own[OURS], own[best]))]
    peers = [name for name in baselines if name != OUR_TABLE]
    if best == OUR_TABLE and peers:
        peer = min(peers, key=lambda name: float(own[name].mean()))
        found.append(
            (f"after recovery: ours / {peer}, the best without our quality table", *ratio(own[OURS], own[peer]))
        )
    return [Gate(what, limit, middle, stderr, middle <= AFTER_RECOVERY) for what, middle, stderr in found]
