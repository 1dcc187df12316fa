import numpy as np
import pytest
from surrogate_data import sampled, small_space

from supernet.cost import parameter_counts
from supernet.encoding import one_hot
from supernet.space import SearchSpace
from supernet.spaces import load_space
from surrogates.features import GROUPS, columns_of, feature_names, features, width_column


@pytest.mark.parametrize("space", [small_space(), small_space(layer_choice="subset"), load_space("tiny-gqa")])
def test_features_have_one_named_column_each_and_are_finite(space: SearchSpace) -> None:
    X = features(space, sampled(space, 30))
    names = feature_names(space)
    assert X.shape == (30, len(names))
    assert len(set(names)) == len(names)
    assert np.isfinite(X).all()


def test_columns_hold_what_their_names_say() -> None:
    space = small_space()
    archs = sampled(space, 20)
    X, names = features(space, archs), feature_names(space)
    counts = parameter_counts(space.model_config, archs)
    np.testing.assert_array_equal(X[:, width_column(space)], [arch.n_embd for arch in archs])
    np.testing.assert_array_equal(X[:, names.index("params_decoder")], counts.decoder)
    np.testing.assert_allclose(X[:, names.index("log_params_mlp")], np.log(counts.mlp))
    np.testing.assert_array_equal(X[:, list(columns_of(space, "one_hot"))], one_hot(space, archs))


def test_different_architectures_have_different_features() -> None:
    space = small_space(layer_choice="subset")
    archs = sampled(space, 300)
    assert len(np.unique(features(space, archs), axis=0)) == 300


@pytest.mark.parametrize("group", GROUPS)
def test_groups_are_distinct_columns_of_the_matrix(group: str) -> None:
    space = small_space(layer_choice="subset")
    columns = columns_of(space, group)
    assert len(set(columns)) == len(columns) > 0
    assert max(columns) < len(feature_names(space))


def test_trees_see_which_blocks_a_subset_keeps() -> None:
    space = small_space(layer_choice="subset")
    names = feature_names(space)
    seen = {names[column] for column in columns_of(space, "trees")}
    assert {f"keep_{i:02}" for i in range(4)} <= seen
    assert not any("=" in name for name in seen)


def test_an_unknown_group_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no feature group 'x'; groups: engineered"):
        columns_of(small_space(), "x")


def test_an_architecture_of_another_space_is_refused_by_its_gene() -> None:
    with pytest.raises(ValueError, match="n_embd = 32"):
        features(small_space(n_embd=(48, 64)), [small_space().smallest()])
