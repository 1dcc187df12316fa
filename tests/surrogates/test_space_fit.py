import numpy as np
import pytest
from small_space import LATENCY, PERPLEXITY, SPACE, made_up_campaign, true_latency, true_perplexity

from supernet.artifacts import read_json, write_json
from surrogates.campaign import Campaign
from surrogates.quantile_grid import POINTS
from surrogates.space_fit import (
    BLEND,
    BY_WIDTH,
    LINEAR,
    POSITIONS,
    RAW_TREES,
    TREES,
    SpaceFit,
    TargetFit,
    quantiles_by_width,
)
from surrogates.space_model import SpaceModel
from surrogates.space_store import load_space_model, save_space_model


@pytest.fixture(scope="module")
def fitted() -> tuple[Campaign, np.ndarray, SpaceModel, list[TargetFit]]:
    data, _ = made_up_campaign(noise=0.02)
    train = np.random.default_rng(0).random(len(data.ids)) < 0.8
    model, fits = SpaceFit(data, train, job_size=len(data.ids) // 2).fit()
    return data, train, model, fits


def card(model: SpaceModel) -> dict:
    return {"what": "made up", "targets": [{"metric": k.metric, "device": k.device} for k in model.targets]}


def test_held_out_networks_are_predicted_without_the_drift(fitted) -> None:
    data, train, model, _ = fitted
    held = ~train
    predicted = model.predict(data.genes[held])
    level = np.median(predicted[:, 0] / true_latency(data.genes[held]))  # what the typical hour is worth
    for width in range(3):
        rows = data.genes[held][:, 0] == width
        ratio = (predicted[:, 0] / true_latency(data.genes[held]))[rows]
        assert np.abs(ratio / np.median(ratio) - 1).max() < 0.03
    assert 0.9 < level < 1.2
    assert np.abs(predicted[:, 1] / true_perplexity(data.genes[held]) - 1).max() < 0.01


def test_test_rows_are_never_looked_at(fitted) -> None:
    data, train, model, _ = fitted
    spoiled = {key: np.where(train, values, 1e3 * values) for key, values in data.values.items()}
    other = Campaign(data.space, data.ids, data.genes, spoiled, data.order, data.repeats, data.workloads)
    again, _ = SpaceFit(other, train, job_size=len(data.ids) // 2).fit()
    assert np.array_equal(again.predict(data.genes), model.predict(data.genes))
    assert np.array_equal(again.spread.device, model.spread.device)


def test_every_candidate_is_scored_and_the_best_is_taken(fitted) -> None:
    _, _, _, fits = fitted
    for fit in fits:
        trends = {BY_WIDTH, BLEND} if fit.key == LATENCY else {BY_WIDTH, POSITIONS, BLEND}
        assert set(fit.candidates) == trends | {LINEAR, RAW_TREES, TREES}
        errors = {name: fit.candidates[name].mape for name in trends}
        assert errors[fit.winner] == min(errors.values())
    assert fits[1].winner in (POSITIONS, BLEND)


def test_intervals_hold_what_they_say_on_held_out_rows(fitted) -> None:
    data, train, model, fits = fitted
    held = ~train
    predicted = model.predict(data.genes[held])[:, 0]
    for drift, values in ((False, np.exp(-fits[0].drift)), (True, np.ones(len(data.ids)))):
        left = np.log((data.values[LATENCY] * values)[held] / predicted)
        bounds = model.log_quantiles(data.genes[held], (0.05, 0.95), drift=drift)[:, 0]
        coverage = np.mean((bounds[:, 0] <= left) & (left <= bounds[:, 1]))
        assert 0.83 < coverage < 0.97, drift
    wide = model.log_quantiles(data.genes, (0.05, 0.95), drift=True)[:, 0]
    narrow = model.log_quantiles(data.genes, (0.05, 0.95))[:, 0]
    assert (np.diff(wide) > 3 * np.diff(narrow)).all()


def test_noise_is_the_repeats_and_unknown_without_them(fitted) -> None:
    data, _, model, _ = fitted
    noise = model.noise_std(data.genes)
    assert np.abs(noise[:, 0] / 0.02 - 1).max() < 0.25
    assert np.isnan(noise[:, 1]).all()


def test_one_row_at_a_time_gives_what_a_batch_gives(fitted) -> None:
    data, _, model, _ = fitted
    genes = np.concatenate([data.genes] * 20)  # more than a chunk
    batch = model.predict(genes)
    for i in range(5):
        assert np.allclose(model.predict(data.genes[i : i + 1])[0], batch[i], rtol=1e-12)
    assert np.allclose(batch[: len(data.genes)], batch[-len(data.genes) :], rtol=1e-12)  # BLAS may add in another order
    assert model.predict(genes[:0]).shape == (0, 2)


def test_a_model_of_some_targets_gives_their_columns(fitted) -> None:
    data, _, model, _ = fitted
    swapped = model.of_targets([PERPLEXITY, LATENCY])
    assert np.allclose(swapped.predict(data.genes), model.predict(data.genes)[:, ::-1], rtol=1e-12)
    alone = swapped.of_targets([LATENCY])
    assert np.allclose(alone.predict(data.genes)[:, 0], model.predict(data.genes)[:, 0], rtol=1e-12)
    with pytest.raises(ValueError, match="no surrogate of memory_mib of gpu; targets: latency_ms of gpu, perplexity"):
        model.of_targets([LATENCY._replace(metric="memory_mib")])


def test_levels_outside_the_grid_are_refused(fitted) -> None:
    data, _, model, _ = fitted
    with pytest.raises(ValueError, match=r"0\.001: this model has levels from 0\.005 to 0\.995"):
        model.log_quantiles(data.genes, (0.001,))


def test_a_saved_model_answers_alike(fitted, tmp_path) -> None:
    data, _, model, _ = fitted
    save_space_model(tmp_path / "m", model, card(model))
    loaded = load_space_model(tmp_path / "m")
    assert np.array_equal(loaded.predict(data.genes), model.predict(data.genes))
    assert np.allclose(loaded.log_quantiles(data.genes, (0.3,)), model.log_quantiles(data.genes, (0.3,)), atol=1e-6)
    assert loaded.space == SPACE
    save_space_model(tmp_path / "m", model, card(model))  # replaces it


@pytest.mark.parametrize("name", ["arrays.npz", "residual_0.ubj"])
def test_a_damaged_or_missing_file_is_named(fitted, tmp_path, name: str) -> None:
    _, _, model, _ = fitted
    folder = save_space_model(tmp_path / "m", model, card(model))
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=rf"{name} is damaged: its SHA-256"):
        load_space_model(folder)
    path.unlink()
    with pytest.raises(ValueError, match=rf"{name} is missing"):
        load_space_model(folder)


def test_other_versions_and_wrong_cards_are_refused(fitted, tmp_path) -> None:
    _, _, model, _ = fitted
    folder = save_space_model(tmp_path / "m", model, card(model))
    saved = read_json(folder / "card.json")
    write_json(folder / "card.json", saved | {"columns": {}})
    with pytest.raises(ValueError, match="features are not those of this version"):
        load_space_model(folder)
    write_json(folder / "card.json", saved | {"format": 99})
    with pytest.raises(ValueError, match="format 99"):
        load_space_model(folder)
    with pytest.raises(FileNotFoundError, match="holds no benchmark"):
        load_space_model(tmp_path)
    with pytest.raises(ValueError, match="card tells of 0 targets"):
        save_space_model(tmp_path / "n", model, {"targets": []})


def test_few_residuals_share_one_shape_and_keep_their_scale() -> None:
    rng = np.random.default_rng(0)
    widths = np.repeat([0, 1], [150, 150])
    residuals = rng.normal(size=300) * np.where(widths == 1, 5.0, 1.0)
    table = quantiles_by_width(residuals, widths, 2)
    assert table.shape == (2, POINTS) and (np.diff(table, axis=1) >= 0).all()
    ratio = np.ptp(table[1, 10:-10]) / np.ptp(table[0, 10:-10])
    assert 3.5 < ratio < 7


def test_too_few_rows_say_how_many_are_needed() -> None:
    data, _ = made_up_campaign(40)
    with pytest.raises(ValueError, match="has 30 training rows; at least 50 are needed"):
        SpaceFit(data, np.arange(40) < 30).fit()
