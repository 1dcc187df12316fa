import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_profiles.quartiles import adjusted, quartiles

samples = st.lists(st.floats(0, 1e6, allow_nan=False), max_size=6)


@settings(max_examples=100, deadline=None)
@given(st.lists(samples, max_size=8))
def test_quartiles_of_many_lists_are_numpys_of_each(lists):
    found = quartiles(np.array([v for values in lists for v in values]), np.array([len(v) for v in lists], np.int64))
    for row, values in zip(found, lists, strict=True):
        expected = np.percentile(values, (25, 50, 75)) if values else [np.nan] * 3
        np.testing.assert_array_equal(row, expected)


def one_by_one(frame):
    """The definition, a row at a time."""
    groups = frame.groupby(["space", "device", "workload", "metric", "reference"])["reference_median"]
    usual = groups.transform("median")
    rows = []
    for repeats, reference in zip(frame["repeats"], frame["reference_repeats"], strict=True):
        if not len(reference) or not np.all(reference):
            rows.append([np.nan] * 3)
            continue
        ratios = repeats / (reference if len(repeats) == len(reference) else np.median(reference))
        rows.append(np.percentile(ratios, (25, 50, 75)))
    low, middle, high = np.array(rows).reshape(-1, 3).T
    return (usual * middle).fillna(frame["median"]), (usual * (high - low)).fillna(frame["iqr"])


def frame_of(rows):
    frame = pd.DataFrame({
        "repeats": [np.array(repeats) for repeats, _, _ in rows],
        "reference_repeats": [np.array(reference) for _, reference, _ in rows],
        "reference": [name if reference else "" for _, reference, name in rows],
    })  # fmt: skip
    frame["space"], frame["workload"], frame["metric"] = "doc", "w", "latency_ms"
    frame["device"] = ["a", "b"][: len(frame)] * (len(frame) // 2) + ["a"] * (len(frame) % 2) if len(frame) > 1 else "a"
    frame["median"] = [float(np.median(repeats)) for repeats, _, _ in rows]
    frame["iqr"] = 0.5
    frame["reference_median"] = [float(np.median(reference)) if reference else np.nan for _, reference, _ in rows]
    return frame


positive = st.floats(0.1, 100)
row = st.tuples(
    st.lists(positive, min_size=1, max_size=5),
    st.lists(st.one_of(positive, st.just(0.0)), max_size=5),
    st.sampled_from(["r", "q"]),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(row, min_size=1, max_size=8))
def test_adjusting_all_rows_at_once_is_adjusting_each(rows):
    frame = frame_of(rows)
    for found, expected in zip(adjusted(frame), one_by_one(frame), strict=True):
        np.testing.assert_array_equal(found.to_numpy(), expected.to_numpy())


@pytest.mark.parametrize("reference", [[], [0.0, 1.0]])
def test_rows_without_a_usable_reference_keep_their_own(reference):
    median, iqr = adjusted(frame_of([([2.0, 4.0], reference, "r")]))
    assert (median.tolist(), iqr.tolist()) == ([3.0], [0.5])
