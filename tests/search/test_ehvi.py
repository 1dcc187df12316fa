"""EHVI: boxes and closed form against moocore, sampling and BoTorch; the reference point; whole searches."""

import json
import sys
from dataclasses import replace
from functools import partial

import moocore
import numpy as np
import pytest
from numpy.testing import assert_allclose
from optimizer_checks import drive, needs_botorch, values
from search_fakes import large_space, latency, small_space

from search.algorithms.botorch_acquisition import log_ehvi_by_sampling, log_nehvi_by_sampling
from search.algorithms.ehvi import EHVI, reference_point
from search.algorithms.gaussian_process import default_hyperparameters
from search.algorithms.hypervolume_improvement import log_ehvi, log_h, nondominated_boxes
from search.algorithms.known_results import latent_violation
from search.algorithms.random_search import RandomSearch
from search.pareto import Normalisation, hypervolume, nondominated, normalised_hypervolume
from supernet.encoding import to_genes

QUICK = partial(EHVI, n_random=100, n_mutations=100)


def front(m, n=12, seed=0, *, ties=False):
    points = np.random.default_rng(seed).random((n, m))
    return np.floor(points * 5) / 5 if ties else points / np.linalg.norm(points, axis=1, keepdims=True)


# --- boxes and closed form --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_boxes_are_disjoint_and_fill_what_no_point_dominates(m, ties):
    for seed in range(5):
        points, reference = front(m, seed=seed, ties=ties), np.full(m, 1.1)
        boxes = nondominated_boxes(points, reference)
        low = np.maximum(boxes.lower, -1.0)
        volume = np.prod(boxes.upper - low, axis=1).sum()
        assert volume == pytest.approx(2.1**m - moocore.hypervolume(points, ref=reference), rel=1e-12)
        for i in range(len(low)):
            overlap = np.minimum(boxes.upper, boxes.upper[i]) - np.maximum(low, low[i])
            assert (overlap > 0).all(axis=1).sum() == 1  # with itself


def test_boxes_of_three_objectives_are_few():
    assert len(nondominated_boxes(front(3, 50), np.full(3, 1.1)).upper) <= 2 * 50 + 1


def test_points_beyond_the_reference_leave_no_trace():
    boxes = nondominated_boxes(np.array([[0.5, 0.5], [0.1, 2.0]]), np.ones(2))
    assert boxes.upper.tolist() == nondominated_boxes(np.array([[0.5, 0.5]]), np.ones(2)).upper.tolist()
    assert nondominated_boxes(np.empty((0, 2)), np.ones(2)).upper.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("m", [1, 2, 3])
def test_the_closed_form_is_the_mean_improvement_of_samples(m):
    rng = np.random.default_rng(m)
    points, reference = front(m, 6), np.full(m, 1.1)
    mean, std = rng.random((4, m)), rng.uniform(0.05, 0.4, (4, m))
    exact = np.exp(log_ehvi(mean, std, nondominated_boxes(points, reference)))
    before = hypervolume(points, reference)
    for i in range(4):
        draws = rng.normal(mean[i], std[i], (4000, m))
        gains = np.array([hypervolume(np.vstack([points, draw]), reference) - before for draw in draws])
        assert abs(exact[i] - gains.mean()) < 4 * gains.std() / np.sqrt(len(gains))
        assert exact[i] > 0


@needs_botorch
@pytest.mark.parametrize("m", [2, 3, 4])
def test_the_closed_form_is_botorchs(m):
    import torch
    from botorch.acquisition.multi_objective.analytic import ExpectedHypervolumeImprovement
    from botorch.utils.multi_objective.box_decompositions import FastNondominatedPartitioning
    from botorch.utils.testing import MockModel, MockPosterior

    rng = np.random.default_rng(m)
    points, reference = front(m), np.full(m, 1.1)
    mean, std = rng.random((20, m)), rng.uniform(0.05, 0.4, (20, m))
    corner = torch.tensor(-reference)
    posterior = MockPosterior(mean=torch.tensor(-mean)[:, None], variance=torch.tensor(std**2)[:, None])
    acquisition = ExpectedHypervolumeImprovement(
        model=MockModel(posterior), ref_point=corner.tolist(),
        partitioning=FastNondominatedPartitioning(ref_point=corner, Y=torch.tensor(-points)),
    )  # fmt: skip
    expected = acquisition(torch.zeros(20, 1, 1, dtype=torch.float64)).numpy()
    assert_allclose(np.exp(log_ehvi(mean, std, nondominated_boxes(points, reference))), expected, rtol=1e-8)


def test_the_logarithm_still_orders_what_underflows():
    boxes = nondominated_boxes(front(2), np.full(2, 1.1))
    mean = np.column_stack([np.linspace(3, 50, 20)] * 2)
    score = log_ehvi(mean, np.full((20, 2), 0.02), boxes)
    assert np.isfinite(score).all() and score[-1] < -1e5
    assert (np.diff(score) < 0).all()


def test_log_h_is_smooth_from_branch_to_branch_and_right_far_out():
    for z in (-1.0, -1e4):
        assert log_h(np.array(z * (1 - 1e-9))) == pytest.approx(float(log_h(np.array(z * (1 + 1e-9)))), rel=1e-7)
    z = -30.0
    series = -0.5 * z**2 - 0.5 * np.log(2 * np.pi) - 2 * np.log(-z) + np.log1p(-3 / z**2 + 15 / z**4 - 105 / z**6)
    assert float(log_h(np.array(z))) == pytest.approx(series, rel=1e-9)
    assert float(log_h(np.array(0.0))) == pytest.approx(-0.5 * np.log(2 * np.pi))
    assert float(log_h(np.array(9.0))) == pytest.approx(np.log(9.0))


# --- the reference point and the acquisition --------------------------------------------------------------------------


def test_every_point_dominates_the_reference_point():
    """The bug of syne-tune: a reference point on the other side, where nothing dominates it, makes all of it 0."""
    rng = np.random.default_rng(0)
    for table in (rng.normal(size=(30, 3)) * [1, 1e4, 1e-3], np.full((4, 2), -7.0), np.zeros((1, 2))):
        assert (table < reference_point(table)).all()


def told(n=30, algorithm=QUICK, evaluate=values):
    optimizer = algorithm(large_space(), rng=np.random.default_rng(0))
    drive(optimizer, n, evaluate=evaluate)
    return optimizer


@pytest.mark.parametrize("m", [1, 2, 3])
def test_the_acquisition_is_positive_on_candidates(m):
    optimizer = told(evaluate=lambda archs: values(archs, m))
    known = optimizer._known()
    score = optimizer._score(known, np.random.default_rng(1).random((300, known.X.shape[1])))
    assert np.isfinite(score).all()
    assert np.exp(score).max() > 0


def test_the_next_network_is_where_the_front_is_expected_to_grow_most():
    """Of 200 random networks scored by the search, the best third grows the true front more than the rest."""
    optimizer, space = told(40), large_space()
    known, archs = optimizer._known(), space.sample_unique(200, np.random.default_rng(5))

    score = optimizer._score(known, optimizer._features(to_genes(space, archs)))
    reference = reference_point(known.values)
    gain = np.array([hypervolume(np.vstack([known.values, v]), reference) for v in values(archs)])
    order = np.argsort(-score)
    assert gain[order[:20]].mean() > gain[order[20:]].mean()


@needs_botorch
def test_botorchs_estimates_are_the_closed_form():
    """qLogEHVI, and qLogNEHVI of functions without noise, whose front is the observed one."""
    optimizer = told(20)
    known = optimizer._known()
    processes = [without_noise(process) for process in known.processes]
    X = np.random.default_rng(1).random((12, known.X.shape[1]))
    reference, front = reference_point(known.values), optimizer._front(known)
    mean, std = (np.column_stack(columns) for columns in zip(*(p.predict(X) for p in processes), strict=True))
    exact = np.exp(log_ehvi(mean, std, nondominated_boxes(front, reference)))
    scale = np.prod([process.scale[1] for process in processes])
    settings = {"reference": reference, "n_samples": 256, "seed": 0}
    for estimate in (
        log_ehvi_by_sampling(processes, X, front=front, **settings),
        log_nehvi_by_sampling(processes, X, baseline=known.X, **settings),
    ):
        # BoTorch smooths the improvement, which raises small ones
        assert_allclose(scale * np.exp(estimate), exact, rtol=0.1, atol=0.05 * exact.max())


def without_noise(process):
    return replace(process, hyperparameters=np.append(process.hyperparameters[:-1], np.log(1.01e-6)))


# --- searches ---------------------------------------------------------------------------------------------------------


def test_it_beats_random_search_by_far():
    runs = {
        kind: [values(drive(kind(large_space(), rng=np.random.default_rng(seed)), 40, batch=1)) for seed in range(2)]
        for kind in (QUICK, RandomSearch)
    }
    bounds = Normalisation.of(np.concatenate([v for found in runs.values() for v in found]))
    ours, random = ([normalised_hypervolume(v, bounds) for v in found] for found in runs.values())
    assert min(ours) > max(random) + 0.05


def test_it_finds_the_front_of_an_enumerable_space():
    space = small_space(bias=(False,))
    table = values(list(space.enumerate()))
    found = values(drive(QUICK(space, rng=np.random.default_rng(0)), 60, batch=3))
    truth = {tuple(v) for v in table[nondominated(table)]}
    assert len(truth & {tuple(v) for v in found}) >= 0.8 * len(truth)


def test_networks_asked_together_differ_as_those_asked_in_turn_do():
    """Pending networks count as believed: eight at once are eight different ones, spread over the front."""
    optimizer = told(40)
    together = optimizer.ask(8)
    assert len(set(together)) == 8
    assert np.ptp(latency(together)) > 0.3 * np.ptp(latency(large_space().sample_unique(300, np.random.default_rng(0))))


def test_networks_that_miss_a_budget_are_not_in_the_front_but_teach():
    limit = 1.2

    def limited(archs):
        return values(archs), np.maximum(latency(archs) / limit - 1, 0)

    optimizer = told(40, evaluate=limited)
    known = optimizer._known()
    assert 0 < known.is_feasible.sum() < len(known.is_feasible) == 40
    assert set(map(tuple, optimizer._front(known))) <= set(map(tuple, known.values[known.is_feasible]))
    X = known.X[: len(known.values)]
    share = np.exp(known.log_feasible(X))
    assert share[known.is_feasible].mean() > 0.8 > 0.2 > share[~known.is_feasible].mean()


def test_where_budgets_are_met_the_violation_goes_on_below_zero():
    """Of a slope only the part above 0 is told: next to it, what is taken for the rest is the slope."""
    X = np.linspace(0, 1, 21)[:, None]
    slope = X[:, 0] - 0.5
    guess = latent_violation(X, np.maximum(slope, 0), np.array([0.0, 0.0, -10.0]))
    assert_allclose(guess[slope > 0], slope[slope > 0])
    assert (guess[slope <= 0] < 0).all()
    near = (slope <= 0) & (slope > -0.17)
    assert_allclose(guess[near], slope[near], atol=0.05)
    only_one = latent_violation(X[:3], np.array([0.0, 0.0, 0.3]), default_hyperparameters(1))
    assert np.isfinite(only_one).all() and (only_one[:2] < 0).all()


def test_hyperparameters_of_many_results_are_fitted_at_every_fifth():
    optimizer = told(99, partial(QUICK, n_initial=98))
    fits = []
    for _ in range(12):
        asked = optimizer.ask(1)
        optimizer.tell(asked, values(asked))
        fits.append(optimizer.state()["n_fitted"])
    assert fits == [99, 100, 100, 100, 100, 100, 105, 105, 105, 105, 105, 110]


def test_a_process_knows_the_front_and_the_newest_of_many(monkeypatch):
    monkeypatch.setattr("search.algorithms.bayesian._MOST", 50)
    optimizer = told(70, partial(QUICK, n_initial=70))
    known = optimizer._known()
    assert len(known.values) == 50
    everything = optimizer._values
    assert {tuple(v) for v in everything[nondominated(everything)]} <= {tuple(v) for v in known.values}


@needs_botorch
@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"noise": True}, {"acquisition": "botorch"}], ids=["noisy", "botorch"])
def test_botorchs_forms_search_are_reproducible_and_resume(settings):
    algorithm = partial(QUICK, **settings)
    whole = drive(algorithm(large_space(), rng=np.random.default_rng(0)), 50, batch=5)
    first = algorithm(large_space(), rng=np.random.default_rng(0))
    start = drive(first, 30, batch=5)
    second = algorithm(large_space(), rng=np.random.default_rng(9))
    second.load_state(json.loads(json.dumps(first.state(), allow_nan=False)))
    assert start + drive(second, 20, batch=5) == whole
    random = values(drive(RandomSearch(large_space(), rng=np.random.default_rng(0)), 50))
    bounds = Normalisation.of(np.concatenate([values(whole), random]))
    assert normalised_hypervolume(values(whole), bounds) > normalised_hypervolume(random, bounds)


def test_settings_are_checked_and_part_of_the_state(monkeypatch):
    new = partial(EHVI, large_space(), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"acquisition = 'ucb'.*'exact', 'botorch'"):
        new(acquisition="ucb")
    with pytest.raises(ValueError, match="n_initial = 1, n_random = 500"):
        new(n_initial=1)
    with pytest.raises(ValueError, match="settings"):
        new(n_random=10).load_state(new().state())
    monkeypatch.setitem(sys.modules, "botorch", None)
    for settings in ({"noise": True}, {"acquisition": "botorch"}):
        with pytest.raises(ImportError, match="pip install botorch"):
            new(**settings)
