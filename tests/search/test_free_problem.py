"""Free objectives on genes: the numbers of the objectives themselves, budgets, and who is given them."""

from functools import partial

import numpy as np
import pytest
from search_fakes import large_space, latency, objectives, small_space

from search.algorithms.free_problem import free_problem, with_free_problem
from search.algorithms.gene_arrays import GeneArrays
from search.algorithms.lts import LTSWarmStart, training_free_front
from search.algorithms.nsga2 import NSGA2
from search.budget import Budget
from search.objectives import COST_METRICS, CostObjective
from supernet.cost import parameter_counts


@pytest.mark.parametrize(
    "space",
    [large_space(), small_space(name="subset", n_layer=(1, 3), layer_choice="subset"), small_space(per_layer=False)],
    ids=["prefix", "subset", "alike"],
)
def test_values_on_genes_are_those_of_the_architectures(space):
    costs = [CostObjective(metric, space.model_config, seq_len=seq) for metric in COST_METRICS for seq in (None, 16)]
    problem = free_problem(space, [*objectives(), *costs], budgets=[Budget("latency_ms", 1.0)])
    arrays = GeneArrays(space)
    genes = arrays.canonical(arrays.random(50, np.random.default_rng(0)))
    archs = arrays.architectures(genes)
    found, violation = problem.evaluate(genes)
    expected = [-parameter_counts(space.model_config, archs).decoder, latency(archs), *(cost(archs) for cost in costs)]
    np.testing.assert_array_equal(found, np.column_stack(expected))
    np.testing.assert_allclose(violation, np.maximum(latency(archs) - 1.0, 0))


def test_an_objective_that_reads_genes_gets_genes_and_is_called_once_a_batch():
    class OfGenes:
        name, unit, is_free, identity, calls = "latency_ms", "ms", True, "genes", 0

        def of_genes(self, genes):
            self.calls += 1
            return genes.sum(axis=1)

        def __call__(self, archs):
            raise AssertionError("given architectures")

    objective = OfGenes()
    problem = free_problem(large_space(), [objectives()[0], objective], budgets=[Budget("latency_ms", 5.0)])
    genes = np.ones((3, 27), dtype=np.int64)
    assert problem.evaluate(genes)[0][:, 1].tolist() == [27, 27, 27]
    assert objective.calls == 1


def test_the_front_meets_the_budgets_and_a_budget_that_nothing_meets_is_an_error():
    space = large_space()
    problem = free_problem(space, objectives(), budgets=[Budget("latency_ms", 2.0)])
    found = training_free_front(space, problem, rng=np.random.default_rng(0), n_evaluations=1000)
    assert len(found.genes) > 3
    assert found.values[:, 1].max() <= 2.0
    impossible = free_problem(space, objectives(), budgets=[Budget("latency_ms", 0.1)])
    with pytest.raises(ValueError, match=r"none of 300 networks of space 'large' has a result and meets the budgets"):
        training_free_front(space, impossible, rng=np.random.default_rng(0), n_evaluations=300)


def test_a_budget_on_quality_is_left_to_the_search():
    problem = free_problem(large_space(), objectives(), budgets=[Budget("perplexity", 0.0)])
    genes = GeneArrays(large_space()).random(5, np.random.default_rng(0))
    assert problem.evaluate(genes)[1].tolist() == [0.0] * 5


def test_objectives_of_one_kind_are_refused():
    quality, hardware = objectives()
    for kinds in ([quality], [hardware]):
        with pytest.raises(ValueError, match="give at least one of each kind"):
            free_problem(large_space(), kinds)


def test_only_an_algorithm_that_needs_the_free_problem_is_given_it():
    space = large_space()
    made = with_free_problem(partial(LTSWarmStart, n_free=300, n_front=5), space, objectives())
    optimizer = made(space, rng=np.random.default_rng(0))
    assert len(optimizer.ask(20)) == 5
    assert with_free_problem(LTSWarmStart, space, objectives())(space, rng=np.random.default_rng(0)).n_free == 20_000
    assert with_free_problem(NSGA2, space, objectives()) is NSGA2
    assert with_free_problem(made, space, objectives()[:1]) is made  # has one already
