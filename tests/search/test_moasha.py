"""MOASHA: decisions worked out by hand, rungs in order, nothing twice, state, and worth its fidelities."""

import json
import signal
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fidelity_fakes import TOKENS, noisy_objectives
from search_fakes import large_space, objectives, small_space

from search.algorithms.mo_rea import priority
from search.algorithms.moasha import MOASHA, leading
from search.algorithms.random_search import RandomSearch
from search.budget import Budget
from search.compare import compare, shared_normalisation
from search.fidelity import FidelityCosts, FidelityJob, rung_fidelities
from search.result import SearchResult
from search.run import run_search

HERE = Path(__file__).parent
VARIANTS = [MOASHA, partial(MOASHA, variant="promotion")]


def fresh(algorithm=MOASHA, seed=0, space=None, **settings):
    return algorithm(space or large_space(), rng=np.random.default_rng(seed), **settings)


class Scripted:
    """Asks one job at a time and tells values by the number of the network; notes (number, rung) of each job."""

    def __init__(self, optimizer, values):
        self.optimizer = optimizer
        self.values = values
        self.numbers = {}
        self.jobs = []

    def run(self, n):
        for _ in range(n):
            (job,) = self.optimizer.ask_jobs(1)
            number = self.numbers.setdefault(job.architecture, len(self.numbers) + 1)
            self.jobs.append((number, self.optimizer.fidelities.index(job.fidelity)))
            self.optimizer.tell_jobs([job], [self.values[number - 1]])
        return self.jobs


# --- decisions worked out by hand -------------------------------------------------------------------------------------


def test_stopping_decides_as_worked_out_by_hand():
    """Three rungs, eta 3: the best max(1, n // 3) of the n at a rung go on.

    1 is alone and goes up to the end. 2 is dominated by 1. 3 is on the front with 1 and first in the epsilon net (its
    smallest objective 0): best of 3 at rung 0; at rung 1 it is first of 2 as well. 4 dominates 1 and 3. 5 is on the
    front {4, 5}, first by objective 0. 6 is the sixth, so two go on: the front is {4, 5, 6}; 5 is first, then the
    furthest from it, which is 6 and not 4. 7 equals 4: the net has 5, 6 before it.
    """
    values = [(5, 5), (6, 6), (4, 7), (3, 3), (2, 9), (9, 1), (3, 3)]
    jobs = Scripted(fresh(n_rungs=3), values).run(16)
    assert jobs == [
        (1, 0), (1, 1), (1, 2), (2, 0), (3, 0), (3, 1), (3, 2), (4, 0), (4, 1), (4, 2), (5, 0), (5, 1), (5, 2),
        (6, 0), (6, 1), (7, 0),
    ]  # fmt: skip


def test_promotion_decides_as_worked_out_by_hand():
    """Three rungs, eta 3: the best n // 3 of a rung go on, from the highest rung downwards.

    2 dominates 1 and 3: after three, it is promoted. 4 dominates 2 and is promoted, though only one of four may go on
    (it is another one now). 5 and 6 are worse; then two of six may go on, 4 and 2, which have. 7 is the best of seven
    and goes on; that makes three at rung 1, and 7, the best of them, goes on before anything new is drawn.
    """
    values = [(5, 5), (3, 3), (4, 7), (2, 2), (9, 9), (8, 8), (1, 1), (7, 7)]
    jobs = Scripted(fresh(n_rungs=3, variant="promotion"), values).run(12)
    assert jobs == [
        (1, 0), (2, 0), (3, 0), (2, 1), (4, 0), (4, 1), (5, 0), (6, 0), (7, 0), (7, 1), (7, 2), (8, 0),
    ]  # fmt: skip


def test_results_told_together_are_ranked_together():
    """Of nine at once the best three go on, here the front."""
    optimizer = fresh()
    jobs = optimizer.ask_jobs(9)
    optimizer.tell_jobs(jobs, [(5, 5), (1, 9), (6, 6), (9, 1), (7, 7), (8, 8), (9, 9), (5, 9), (9, 8)])
    third = optimizer.ask_jobs(3)
    assert {job.architecture for job in third} == {jobs[i].architecture for i in (0, 1, 3)}
    assert {job.fidelity for job in third} == {optimizer.fidelities[1]}


def test_a_network_without_a_result_or_over_budget_goes_on_only_where_nothing_is_better():
    optimizer = fresh()
    first = optimizer.ask_jobs(1)
    optimizer.tell_jobs(first, [(np.nan, 1.0)])
    assert optimizer.ask_jobs(1)[0].fidelity == optimizer.fidelities[0]
    jobs = optimizer.ask_jobs(3)
    optimizer.tell_jobs(jobs, [(1, 1), (9, 9), (np.nan, np.nan)], [2.0, 0.0, 0.0])
    assert optimizer.ask_jobs(1) == [FidelityJob(jobs[1].architecture, optimizer.fidelities[1])]
    json.dumps(optimizer.state(), allow_nan=False)


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_are_those_of_the_rank_of_mo_rea(seed, m):
    rng = np.random.default_rng(seed)
    values, violation = rng.normal(size=(60, m)).round(1), np.maximum(rng.normal(size=60), 0).round(1)
    values[rng.random(60) < 0.1] = np.nan
    order = [i for i in np.argsort(priority(values, violation)) if np.isfinite(values[i]).all()]
    for n in (1, 5, 20, 100):
        assert leading(values, violation, n).tolist() == order[:n]


def test_rungs_are_powers_of_eta():
    assert rung_fidelities(eta=3, n_rungs=4) == (1 / 27, 1 / 9, 1 / 3, 1.0)
    assert rung_fidelities(eta=2, n_rungs=3) == (0.25, 0.5, 1.0)
    with pytest.raises(ValueError, match="need eta > 1"):
        rung_fidelities(eta=1, n_rungs=3)
    with pytest.raises(ValueError, match="variant = 'hyperband'; allowed: stopping, promotion"):
        fresh(variant="hyperband")


# --- contracts --------------------------------------------------------------------------------------------------------


def values_of(jobs):
    quality, hardware = noisy_objectives()
    archs = [job.architecture for job in jobs]
    table = np.column_stack([quality.at(archs, [job.fidelity for job in jobs]), hardware(archs)])
    table[[arch.n_head[0] == 8 and arch.n_head[1] == 4 for arch in archs], 0] = np.nan
    return table, np.maximum(table[:, 1] - 1.6, 0)


def drive(optimizer, n, *, batch=7, told=None):
    """Return n jobs (fewer from an exhausted space); `told` collects the state after every tell."""
    done = []
    while len(done) < n and (jobs := optimizer.ask_jobs(min(batch, n - len(done)))):
        optimizer.tell_jobs(jobs, *values_of(jobs))
        done += jobs
        if told is not None:
            told.append((len(done), json.dumps(optimizer.state(), allow_nan=False)))
    return done


@pytest.mark.parametrize("batch", [1, 8, 40])
@pytest.mark.parametrize("algorithm", VARIANTS)
def test_no_job_comes_twice_and_no_network_jumps_a_rung(algorithm, batch):
    jobs = drive(fresh(algorithm), 500, batch=batch)
    assert len(set(jobs)) == 500
    reached = {}
    fidelities = fresh().fidelities
    for job in jobs:
        assert fidelities.index(job.fidelity) == reached.get(job.architecture, -1) + 1
        reached[job.architecture] = fidelities.index(job.fidelity)
    assert max(reached.values()) == 3


@pytest.mark.parametrize("algorithm", VARIANTS)
def test_about_one_in_eta_goes_on_from_every_rung(algorithm):
    jobs = drive(fresh(algorithm), 900, batch=5)
    counts = [sum(job.fidelity == fidelity for job in jobs) for fidelity in fresh().fidelities]
    for low, high in pairwise(counts):
        assert 0.2 * low < high < 0.45 * low + 3


@pytest.mark.parametrize("algorithm", VARIANTS)
def test_a_search_cut_after_any_tell_goes_on_as_if_uncut(algorithm):
    told = []
    whole = drive(fresh(algorithm, 3), 200, batch=9, told=told)
    for n, state in told[:-1]:
        resumed = fresh(algorithm, 99)
        resumed.load_state(json.loads(state))
        assert drive(resumed, 200 - n, batch=9) == whole[n:]
    assert whole != drive(fresh(algorithm, 4), 200, batch=9)


@pytest.mark.parametrize("algorithm", VARIANTS)
def test_what_was_asked_and_never_told_comes_again_after_a_restart(algorithm):
    first = fresh(algorithm)
    drive(first, 40)
    asked = first.ask_jobs(8) + first.ask_jobs(3)
    second = fresh(algorithm, 1)
    second.load_state(json.loads(json.dumps(first.state(), allow_nan=False)))
    again = second.ask_jobs(8) + second.ask_jobs(8)
    assert again == asked
    assert not set(second.ask_jobs(5)) & set(asked)


@pytest.mark.parametrize("algorithm", VARIANTS)
def test_an_exhausted_space_ends_with_every_network_at_the_lowest_rung(algorithm):
    space = small_space(n_embd=(32, 48), n_layer=(1,))
    optimizer = fresh(algorithm, space=space)
    jobs = drive(optimizer, 10_000)
    lowest = [job.architecture for job in jobs if job.fidelity == optimizer.fidelities[0]]
    assert set(lowest) == set(space.enumerate())
    assert len(lowest) == space.num_architectures
    assert optimizer.ask_jobs(3) == []


def test_results_that_are_not_due_are_refused():
    optimizer = fresh()
    (job,) = optimizer.ask_jobs(1)
    high = FidelityJob(job.architecture, optimizer.fidelities[1])
    with pytest.raises(ValueError, match=r"was told at fidelity 0.111111 before 0.037037"):
        optimizer.tell_jobs([high], [(1, 1)])
    with pytest.raises(ValueError, match=r"told a result at fidelity 0.5; the rungs are"):
        optimizer.tell_jobs([FidelityJob(job.architecture, 0.5)], [(1, 1)])
    optimizer.tell_jobs([job], [(1, 1)])
    with pytest.raises(ValueError, match=r"was told at fidelity 0.037037 before"):
        optimizer.tell_jobs([job], [(1, 1)])
    with pytest.raises(ValueError, match="values of 3 objectives, before of 2"):
        optimizer.tell_jobs(optimizer.ask_jobs(2)[1:], [(1, 1, 1)])


def test_a_search_without_fidelities_is_refused_and_so_is_the_state_of_another():
    with pytest.raises(TypeError, match="use ask_jobs and tell_jobs"):
        fresh().ask(1)
    with pytest.raises(ValueError, match="settings"):
        fresh(n_rungs=3).load_state(fresh().state())
    with pytest.raises(ValueError, match="space = 'large', this search has 'small'"):
        fresh(space=small_space()).load_state(fresh().state())


# --- in the search loop -----------------------------------------------------------------------------------------------


def search(run_dir=None, *, noise=0.03, **changes):
    arguments = {"algorithm": MOASHA, "n_evaluations": 20, "seed": 5, "run_dir": run_dir, "batch": 8}
    return run_search(large_space(), noisy_objectives(noise), **(arguments | changes))


@pytest.mark.parametrize("algorithm", VARIANTS)
def test_the_budget_is_counted_in_tokens_and_the_result_holds_full_evaluations(tmp_path, algorithm):
    problem = noisy_objectives()
    result = run_search(large_space(), problem, algorithm=algorithm, n_evaluations=20, seed=1, run_dir=tmp_path)
    jobs = pd.read_parquet(tmp_path / "jobs.parquet")
    spent = result.details["spent"]
    assert jobs["tokens"].sum() == spent["tokens"] <= 20 * TOKENS
    assert spent["evaluations"] == spent["tokens"] / TOKENS > 19
    assert [rung["tokens"] for rung in spent["rungs"]] == [100, 300, 900, 2700]
    assert [rung["n_networks"] for rung in spent["rungs"]] == jobs.groupby("fidelity").size().tolist()
    for _, own in jobs.groupby("architecture"):  # each pays what its highest fidelity costs, once
        assert own["tokens"].sum() == round(own["fidelity"].max() * TOKENS)
    full = jobs[jobs["fidelity"] == 1]
    assert result.evaluations["architecture"].tolist() == full["architecture"].tolist()
    assert result.evaluations["cost"].is_monotonic_increasing
    assert result.evaluations["cost"].iloc[-1] <= spent["evaluations"] + 1e-9
    calls = [(arch.id, fidelity) for arch, fidelity in problem[0].calls]
    assert calls == list(zip(jobs["architecture"], jobs["fidelity"], strict=True))
    assert len(set(calls)) == len(calls)
    exact = problem[0](result.front_architectures)
    np.testing.assert_array_equal(result.front["perplexity"], exact)
    loaded = SearchResult.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.evaluations, result.evaluations)
    assert loaded.n_spent == int(spent["evaluations"]) >= 19


KILLED = """
import os, signal, sys
sys.path.insert(0, {here!r})
from fidelity_fakes import NoisyQuality, noisy_objectives
from search_fakes import large_space
from search.algorithms.mo_rea import priority
from search.algorithms.moasha import MOASHA, leading
from search.run import run_search

class Dying(NoisyQuality):
    n = 0
    def at(self, archs, fidelities):
        self.n += 1
        if self.n == {call}:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().at(archs, fidelities)

run_search(large_space(), [Dying(), noisy_objectives()[1]], algorithm=MOASHA, n_evaluations=20, batch=8, seed=5,
           run_dir={run_dir!r})
"""


@pytest.mark.parametrize("call", [2, 9])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, call):
    script = KILLED.format(here=str(HERE), call=call, run_dir=str(tmp_path / "killed"))
    died = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    resumed, whole = search(tmp_path / "killed"), search(tmp_path / "whole")
    pd.testing.assert_frame_equal(resumed.evaluations, whole.evaluations, check_exact=True)
    both = [pd.read_parquet(tmp_path / name / "jobs.parquet") for name in ("killed", "whole")]
    pd.testing.assert_frame_equal(*both, check_exact=True)
    assert resumed.details == whole.details


def test_a_finished_search_is_reused_and_can_be_extended(tmp_path):
    first = search(tmp_path)
    pd.testing.assert_frame_equal(search(tmp_path).evaluations, first.evaluations)
    longer = search(tmp_path, n_evaluations=30)
    n = len(first.evaluations)
    pd.testing.assert_frame_equal(longer.evaluations[:n], first.evaluations)
    assert 29 < longer.details["spent"]["evaluations"] <= 30
    jobs = pd.read_parquet(tmp_path / "jobs.parquet")
    assert not jobs.duplicated(["architecture", "fidelity"]).any()


def test_the_state_of_another_algorithm_is_refused_and_kept(tmp_path):
    search(tmp_path)
    before = (tmp_path / "state.json").read_bytes()
    with pytest.raises(ValueError, match="algorithm = 'moasha', this search has 'random'"):
        search(tmp_path, algorithm=RandomSearch)
    with pytest.raises(ValueError, match="settings"):
        search(tmp_path, algorithm=partial(MOASHA, variant="promotion"))
    assert (tmp_path / "state.json").read_bytes() == before


def test_hard_limits_hold_on_the_front():
    result = search(budgets=[Budget("latency_ms", 1.6)], n_evaluations=40)
    assert len(result.front)
    assert result.front["latency_ms"].max() <= 1.6


def test_an_objective_without_fidelity_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"\['perplexity'\] cannot be evaluated on a part of the text.*random search"):
        run_search(large_space(), objectives(), algorithm=MOASHA, n_evaluations=20)
    with pytest.raises(ValueError, match=r"of the objectives \['latency_ms'\] none costs an evaluation"):
        run_search(large_space(), objectives()[1:], algorithm=MOASHA, n_evaluations=20)


def test_rungs_that_are_the_same_tokens_are_refused():
    with pytest.raises(ValueError, match="not all different: give more text"):
        FidelityCosts.of(noisy_objectives(), [1e-5, 2e-5, 1.0], algorithm="moasha")


def test_searches_are_compared_after_equally_many_tokens():
    main, random = search(n_evaluations=30), search(n_evaluations=30, algorithm=RandomSearch)
    standings = {s.name: s for s in compare({"moasha": main, "random": random})}
    assert standings["moasha"].n_evaluations == standings["moasha"].n_common == 29
    assert standings["random"].n_common == 29
    assert len(main.evaluations) < 15
    bounds = shared_normalisation({"a": main, "b": random})
    cost = main.evaluations["cost"]
    half = run_search(large_space(), noisy_objectives(), algorithm=MOASHA, n_evaluations=15, seed=5, batch=8)
    n = int((cost <= 15).sum())
    assert main.hypervolume(bounds, n=15) == pytest.approx(half.hypervolume(bounds))
    assert 0 < n < len(cost)
    curve = main.hypervolume_curve(bounds)
    assert curve["n_evaluations"].iloc[-1] == 29
    assert (np.diff(curve["hypervolume"]) >= 0).all()


# --- is it worth it ---------------------------------------------------------------------------------------------------


def cost_to_reach(result, target, bounds):
    """Evaluations' worth of tokens until the front's hypervolume is that of the target; infinite if never."""
    for n, cost in enumerate(result.evaluations["cost"], 1):
        if SearchResult(result.evaluations[:n], result.objectives, "", 0).hypervolume(bounds) >= target:
            return cost
    return np.inf


def shares(noise, variant, seeds):
    """Tokens that MOASHA needs for the front that random search has after 100 evaluations, as a share of theirs."""
    found = []
    for seed in seeds:
        arguments = {"n_evaluations": 100, "seed": seed, "noise": noise, "batch": 10}
        random = search(algorithm=RandomSearch, **arguments)
        main = search(algorithm=partial(MOASHA, variant=variant), **arguments)
        bounds = shared_normalisation({"a": random, "b": main})
        found.append(cost_to_reach(main, random.hypervolume(bounds), bounds) / 100)
    return np.array(found)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["stopping", "promotion"])
def test_with_correlated_rungs_the_same_front_costs_fewer_tokens_than_random_search(variant):
    useful = shares(0.03, variant, range(5))
    useless = shares(100.0, variant, range(2))  # what rungs say has nothing to do with the network
    print(f"share of random search's tokens: {np.round(useful, 2)}, with useless rungs {np.round(useless, 2)}")
    assert np.median(useful) < 0.6
    assert np.median(useless) > 1
