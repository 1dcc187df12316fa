"""Reference fronts: right, shipped for every case of the protocol, and refused when they are not those of the data."""

from types import SimpleNamespace

import moocore
import numpy as np
import pytest

from search.comparison.cases import benchmark_of, find_case
from search.comparison.references import (
    Effort,
    case_reference,
    load_references,
    references_of,
    save_references,
    shipped_references,
    width_front,
)
from search.comparison.settings import KEYS, read_settings
from search.comparison.single_run import execute
from search.comparison.storage import combine, write_run

QUICK = Effort(generations=2, children=50, sweeps=0)


@pytest.fixture(scope="module")
def benchmark():
    return benchmark_of("gpt-s")


@pytest.fixture(scope="module")
def case(benchmark):
    return find_case(benchmark, objectives=["perplexity", "latency"], device="a100", budgets={"memory": 450})


@pytest.fixture(scope="module")
def widths(benchmark, case):
    found = {f"n_embd={w}": width_front(case, benchmark, w, effort=QUICK) for w in benchmark.space.n_embd}
    return {name: front for name, front in found.items() if front is not None}


def test_fronts_of_a_width_have_that_width_and_meet_the_budget(benchmark, case, widths):
    assert len(widths) == 2  # nothing of width 768 fits
    for name, front in widths.items():
        index = benchmark.space.n_embd.index(int(name.removeprefix("n_embd=")))
        assert (front.genes[:, 0] == index).all()
        values, violation = case.measure(benchmark, front.genes)
        assert (violation == 0).all() and np.array_equal(values, front.front)


def test_the_whole_front_is_what_the_widths_leave_of_each_other(case, widths):
    reference = case_reference(case, widths)
    points = np.concatenate([front.front for front in widths.values()])
    expected = points[moocore.is_nondominated(points)]
    assert np.array_equal(np.unique(reference.panels["all"].front, axis=0), np.unique(expected, axis=0))
    assert np.array_equal(reference.panels["all"].ideal, points.min(axis=0))
    assert reference.names == case.names and reference.units == ("1", "ms")


def test_fronts_are_read_as_they_were_written(benchmark, case, widths, tmp_path):
    save_references(tmp_path, benchmark, {case.clean_name: widths}, how={"command": "test"})
    found = load_references(benchmark, tmp_path)[case.clean_name]
    assert list(found) == list(widths)
    for name, front in widths.items():
        for part in ("front", "ideal", "nadir", "genes"):
            assert np.array_equal(getattr(found[name], part), getattr(front, part))
    assert load_references(benchmark, tmp_path / "none") == {}


def test_fronts_of_another_fit_are_refused(benchmark, case, widths, tmp_path):
    other = SimpleNamespace(space=benchmark.space, digest="0123456789abcdef")
    save_references(tmp_path, other, {case.clean_name: widths}, how={})
    with pytest.raises(ValueError, match=r"gpt-s.json is stale: .*digest 0123456789abcdef.*make_references"):
        load_references(benchmark, tmp_path)


def test_damaged_fronts_are_refused(benchmark, case, widths, tmp_path):
    save_references(tmp_path, benchmark, {case.clean_name: widths}, how={})
    path = tmp_path / "gpt-s.npz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"gpt-s.npz is damaged"):
        load_references(benchmark, tmp_path)


def test_a_case_without_shipped_fronts_gets_some_that_no_run_beats(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr("search.comparison.references.MODEST", QUICK)
    settings = read_settings(
        {"scales": ["gpt-s"], "devices": ["p100"], "methods": ["random", "nsga2"], "seeds": 2, "n_evaluations": 100}
    )
    plans = settings.plans()
    for plan in plans:
        write_run(tmp_path, plan, execute(plan))
    records = combine(tmp_path, plans)
    references, sources = references_of(settings, {}, tmp_path)
    (reference,) = references.values()
    assert sources[reference.case].startswith("searched here")
    for panel, front in reference.panels.items():
        assert moocore.is_nondominated(front.front, keep_weakly=True).all()
        for record in records:
            own = record.values if panel == "all" else record.values[record.widths == int(panel[7:])]
            for point in own:
                assert (front.front <= point).all(axis=1).any(), f"{panel}: a run is better than its reference"


def test_every_case_of_the_protocol_has_shipped_fronts():
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    with initialize_config_module("supernet.conf", version_base="1.3"):
        values = OmegaConf.to_container(compose("compare", ["compare=full", "methods=[random]"]))
    settings = read_settings({key: values[key] for key in KEYS})
    shipped = shipped_references(settings)
    assert {case.clean_name for case in settings.cases} == set(shipped)
    for case in settings.cases:
        benchmark, reference = benchmark_of(case.benchmark), case_reference(case, shipped[case.clean_name])
        for panel, front in reference.panels.items():
            assert np.allclose(case.scored_values(benchmark, front.genes), front.front, rtol=1e-9), (case.name, panel)
            assert np.array_equal(front.ideal, front.front.min(axis=0))
            assert np.array_equal(front.nadir, front.front.max(axis=0))
            assert moocore.is_nondominated(front.front, keep_weakly=True).all()
            assert len(front.front) >= 10
        own = benchmark.objective(_pairs(case))
        if own.reference_front is not None and not case.budgets:
            volumes = [moocore.hypervolume(front, ref=own.reference_point)
                       for front in (own.reference_front, reference.panels["all"].front)]  # fmt: skip
            assert volumes[1] >= volumes[0], f"{case.name}: the benchmark's own front is better"


def _pairs(case):
    return [target.metric if target.device == "any" else tuple(target) for target in case.targets]
