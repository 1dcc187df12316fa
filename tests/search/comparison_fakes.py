"""Runs of made-up methods on made-up cases: points near a known front, the better the method the nearer."""

import numpy as np

from search.comparison.records import ALL, CaseReference, RunRecord, width_panel
from surrogates.reference_fronts import ReferenceFront

WIDTHS = (192, 384)
CASE = "gpt-s perplexity latency_ms@{}"


def curved_front(n=40, offset=0.0, m=2):
    """Points of x * y = 1 (or on a sphere's corner), shifted away from the origin."""
    if m == 2:
        x = np.geomspace(0.3, 3.0, n)
        return np.column_stack([x, 1 / x]) + 1 + offset
    directions = np.abs(np.random.default_rng(3).normal(size=(4 * n, m)))
    return 3 - 2 * directions / np.linalg.norm(directions, axis=1, keepdims=True) + offset


def reference_of(front):
    return ReferenceFront(front, front.min(axis=0), front.max(axis=0), np.zeros((len(front), 1), dtype=np.int64))


def case_reference(case, m=2):
    front = curved_front(m=m)
    names = ("perplexity", "latency_ms@a100", "energy_mj@a100")[:m]
    panels = {ALL: reference_of(front)}
    panels |= {width_panel(w): reference_of(front + 0.3 * i) for i, w in enumerate(WIDTHS)}
    return CaseReference(case, names, ("1", "ms", "mJ")[:m], panels)


def run_record(case, method, seed, *, distance=0.2, n=40, m=2, is_point=False, offset=0):
    """A run whose points lie about `distance` beyond the front."""
    rng = np.random.default_rng([seed, sum(case.encode()), offset])
    front = curved_front(200, m=m)
    values = front[rng.integers(0, len(front), n)] + np.abs(rng.normal(distance, distance, (n, m)))
    return RunRecord(case, method, seed, values, rng.choice(WIDTHS, n), is_point, 0.5)


def made_up(cases, methods, seeds, *, n=40, point=None):
    """Records and references; `methods` gives the distance of each, `point` that of the front of counting."""
    records = [
        run_record(case, method, seed, distance=distance, n=n, offset=i)
        for case in cases for i, (method, distance) in enumerate(methods.items()) for seed in range(seeds)
    ]  # fmt: skip
    if point is not None:
        records += [run_record(case, "lts", seed, distance=point, n=25, is_point=True, offset=99)
                    for case in cases for seed in range(seeds)]  # fmt: skip
    return records, {case: case_reference(case) for case in cases}
