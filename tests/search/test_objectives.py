"""Objectives: exact costs, negation, tables, surrogates; and budgets on them."""

import numpy as np
import pytest
from search_fakes import large_space, latency, objectives, small_space

from search.budget import Budget, budgets_from, check_reachable, constrain
from search.objectives import COST_METRICS, CostObjective, FunctionObjective, NegatedObjective, TableObjective
from supernet.cost import kv_cache_bytes, macs, parameter_count


def nets(n=20):
    return large_space().sample_unique(n, np.random.default_rng(0))


def test_cost_objectives_are_the_closed_forms():
    config, archs = large_space().model_config, nets()
    expected = {
        "n_params": [parameter_count(config, a).total for a in archs],
        "n_params_decoder": [parameter_count(config, a).decoder for a in archs],
        "macs": [macs(config, a, seq_len=32, batch_size=2) for a in archs],
        "flops": [2 * macs(config, a, seq_len=32, batch_size=2) for a in archs],
        "kv_cache_mib": [kv_cache_bytes(config, a, seq_len=32, batch_size=2) / 2**20 for a in archs],
    }
    assert set(expected) == set(COST_METRICS)
    for metric, values in expected.items():
        objective = CostObjective(metric, config, seq_len=32, batch_size=2)
        np.testing.assert_allclose(objective(archs), values, rtol=1e-15)
        assert objective.is_free
        assert objective.name == metric


def test_costs_take_the_longest_sequence_unless_told():
    config = large_space().model_config
    np.testing.assert_array_equal(
        CostObjective("macs", config)(nets()), CostObjective("macs", config, seq_len=config.block_size)(nets())
    )


def test_identities_tell_workloads_tables_and_signs_apart():
    config, archs = large_space().model_config, nets(2)
    given = [
        CostObjective("macs", config),
        CostObjective("macs", config, seq_len=8),
        NegatedObjective(CostObjective("macs", config)),
        TableObjective("macs", {archs[0]: 1.0}),
        TableObjective("macs", {archs[0]: 2.0}),
        TableObjective("macs", {archs[1]: 1.0}),
    ]
    assert len({o.identity for o in given}) == len(given)


def test_negation_turns_maximising_into_minimising():
    objective = NegatedObjective(objectives()[1])
    np.testing.assert_array_equal(objective(nets()), -latency(nets()))
    assert (objective.name, objective.unit) == ("-latency_ms", "ms")


def test_architectures_missing_from_a_table_are_nan():
    archs = nets(3)
    table = TableObjective("perplexity", {archs[0]: 3.5, archs[2]: 4.5}, is_free=False)
    np.testing.assert_array_equal(table(archs), [3.5, np.nan, 4.5])


def test_an_unknown_cost_is_refused():
    with pytest.raises(ValueError, match="latency_ms' has no closed form; allowed: n_params"):
        CostObjective("latency_ms", large_space().model_config)


# --- budgets ----------------------------------------------------------------------------------------------------------


def test_budgets_are_read_from_plain_mappings():
    assert budgets_from({"latency_ms": 12, "energy_mj": {"a100": 3, "orin": 4.5}}) == [
        Budget("latency_ms", 12.0),
        Budget("energy_mj", 3.0, "a100"),
        Budget("energy_mj", 4.5, "orin"),
    ]
    assert str(Budget("energy_mj", 3.0, "a100")) == "energy_mj <= 3 on a100"


def test_violation_is_the_share_by_which_a_limit_is_missed():
    constraint = constrain([Budget("latency_ms", 2.0)], objectives(), large_space())[0]
    np.testing.assert_allclose(constraint.violation(np.array([1.0, 2.0, 3.0])), [0.0, 0.0, 0.5])
    assert np.isnan(constraint.violation(np.array([np.nan]))[0])


def test_metrics_where_more_is_better_have_a_smallest_value_allowed():
    speed = FunctionObjective("tokens_per_s", lambda archs: 1000 / latency(archs))
    constraint = constrain([Budget("tokens_per_s", 100.0)], [speed], large_space())[0]
    np.testing.assert_allclose(constraint.violation(np.array([50.0, 100.0, 200.0])), [0.5, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"tokens_per_s >= 1e\+09 cannot be met .* the largest value found"):
        check_reachable(
            constrain([Budget("tokens_per_s", 1e9)], [speed], large_space()), large_space(), np.random.default_rng(0)
        )


def test_a_budget_on_a_closed_form_needs_no_objective():
    constraint = constrain([Budget("n_params", 1e6)], objectives(), large_space())[0]
    assert isinstance(constraint.objective, CostObjective)


def test_a_budget_that_nothing_measures_is_refused_with_what_is_known():
    with pytest.raises(ValueError, match=r"energy_mj <= 1: nothing measures it here; known metrics: .*latency_ms"):
        constrain([Budget("energy_mj", 1.0)], objectives(), large_space())
    with pytest.raises(ValueError, match="latency_ms <= 1 on a100: nothing measures it"):
        constrain([Budget("latency_ms", 1.0, "a100")], objectives(), large_space())


def test_an_unreachable_budget_names_the_smallest_value_and_its_architecture():
    space = small_space()
    constraints = constrain([Budget("n_params_decoder", 10.0)], objectives(), space)
    smallest = min(parameter_count(space.model_config, arch).decoder for arch in space.enumerate())
    with pytest.raises(ValueError, match=rf"n_params_decoder <= 10 cannot be met in space 'small'.* {smallest} param"):
        check_reachable(constraints, space, np.random.default_rng(0))


def test_a_budget_on_a_costly_objective_is_tried_on_the_ends_only():
    seen = []

    def costly(archs):
        seen.extend(archs)
        return np.full(len(archs), 5.0)

    objective = FunctionObjective("perplexity", costly, is_free=False)
    space = small_space()
    constraints = constrain([Budget("perplexity", 1.0)], [objective], space)
    with pytest.raises(ValueError, match="among 2 architectures is 5"):
        check_reachable(constraints, space, np.random.default_rng(0))
    assert seen == [space.smallest(), space.largest()]


def test_a_limit_must_be_a_number():
    with pytest.raises(ValueError, match="give a finite number"):
        Budget("latency_ms", float("nan"))
