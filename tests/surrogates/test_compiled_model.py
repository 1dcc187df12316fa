import dataclasses

import numpy as np
import pytest
import xgboost as xgb
from made_up_model import TARGETS, made_up_model, random_genes

from supernet.spaces import load_space
from surrogates.block_table import block_table
from surrogates.compiled_model import CompiledModel
from surrogates.layer_features import LayerFeatures
from surrogates.space_model import SpaceModel
from surrogates.tree_ensemble import FEW_ROWS, Forest, TreeEnsemble


@pytest.fixture(scope="module", params=["gpt-s", "gpt-l", "tiny"])
def model(request):
    return made_up_model(request.param)


def test_numbers_are_those_of_the_model(model):
    compiled, genes = CompiledModel(model), random_genes(model.features, 300, seed=5)
    np.testing.assert_allclose(compiled.predict(genes), model.predict(genes), rtol=1e-11)
    np.testing.assert_array_equal(compiled.log_quantiles(genes, (0.1, 0.9)), model.log_quantiles(genes, (0.1, 0.9)))
    np.testing.assert_array_equal(compiled.noise_std(genes), model.noise_std(genes))
    assert compiled.targets == model.targets and compiled.predict(genes[:0]).shape == (0, len(TARGETS))


def test_a_network_has_the_same_bits_in_every_batch(model):
    compiled, genes = CompiledModel(model), random_genes(model.features, 300, seed=6)
    assert compiled._few is not None  # few rows take another way than many
    expected = compiled.predict(genes)
    for n in (1, 2, 7, FEW_ROWS, FEW_ROWS + 1, 100):
        found = np.concatenate([compiled.predict(genes[i : i + n]) for i in range(0, 300, n)])
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(compiled.predict(genes[::-1])[::-1], expected)


@pytest.mark.parametrize("columns", [[0], [4], [3, 1], [5, 0, 2]])
def test_a_part_has_the_bits_of_the_whole(model, columns):
    compiled, genes = CompiledModel(model), random_genes(model.features, 80, seed=7)
    part = compiled.of_targets([TARGETS[i] for i in columns])
    np.testing.assert_array_equal(part.predict(genes), compiled.predict(genes)[:, columns])
    np.testing.assert_array_equal(part.predict(genes[:3]), compiled.predict(genes[:3])[:, columns])


@pytest.mark.parametrize("tables", [(), ("layers",), ("positions",), ("packing", "layers")])
def test_models_with_fewer_trees_are_compiled_too(tables):
    model = made_up_model("gpt-s", tables)
    compiled, genes = CompiledModel(model), random_genes(model.features, 60)
    np.testing.assert_allclose(compiled.predict(genes), model.predict(genes), rtol=1e-11)
    np.testing.assert_array_equal(compiled.predict(genes[:1]), compiled.predict(genes)[:1])


def test_saved_trees_are_taken_as_they_are(model):
    ready = [dataclasses.replace(part, booster=TreeEnsemble(part.booster.save_raw("ubj"))) for part in model.residuals]
    loaded = SpaceModel(model.space, model.targets, trend=model.trend, residuals=ready, spread=model.spread)
    genes = random_genes(model.features, 50)
    compiled = CompiledModel(loaded)
    assert [part.booster for part in compiled.model.residuals] == [part.booster for part in ready]
    np.testing.assert_array_equal(compiled.predict(genes), CompiledModel(model).predict(genes))


# --- tables and forests ---------------------------------------------------------------------------------------------


def test_sums_over_blocks_become_tables_and_other_functions_do_not():
    features = LayerFeatures(load_space("gpt-s"))
    genes = random_genes(features, 200, seed=3)

    def sums(rows):
        weights = np.arange(1, rows.shape[1] - 2)
        return np.column_stack([(rows[:, 3:] * weights).sum(axis=1) * (1 + rows[:, 0]), rows[:, 3:15] @ weights[:12]])

    def modulo(rows):
        return sums(rows) % [7.0, np.inf]

    plain = block_table(features, sums, np.full(2, np.inf))
    np.testing.assert_array_equal(plain(genes), sums(genes))
    wrapped = block_table(features, modulo, np.array([7.0, np.inf]))
    np.testing.assert_array_equal(wrapped(genes), modulo(genes))
    assert block_table(features, modulo, np.full(2, np.inf)) is None
    assert block_table(features, lambda rows: rows[:, 3:].max(axis=1, keepdims=True), np.full(1, np.inf)) is None


def test_a_forest_gives_what_each_ensemble_gives():
    rng = np.random.default_rng(0)
    X = rng.random((40, 9)).astype(np.float32)
    ensembles, columns = [], [(0, 4), (4, 9), (2, 5)]
    for low, high in columns:
        settings = {"max_depth": int(high - low), "multi_strategy": "multi_output_tree", "tree_method": "hist"}
        targets = rng.random((40, high - low))
        raw = xgb.train(settings, xgb.DMatrix(X[:, low:high], targets), 6 * low + 3).save_raw("ubj")
        ensembles.append(TreeEnsemble(raw).trees)
    forest = Forest(ensembles, [low for low, _ in columns])
    for n in (1, 5, 40):
        found = forest.predict(X[:n])
        for part, trees, (low, high) in zip(found, ensembles, columns, strict=True):
            np.testing.assert_array_equal(part, trees.predict(np.ascontiguousarray(X[:n, low:high])))
