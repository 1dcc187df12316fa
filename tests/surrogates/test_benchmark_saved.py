"""A benchmark from files to answers, with made-up surrogates saved as the shipped ones are."""

import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
from made_up_model import TARGETS, save_made_up_model

from hw_profiles.device import Workload
from hw_profiles.importers.hwgpt_protocol import bucket, workload_of
from hw_profiles.table import METRICS, Measurement, MeasurementTable
from surrogates import Benchmark
from surrogates.device_store import save_device


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_made_up_model(tmp_path_factory.mktemp("benchmark") / "gpt-s")


@pytest.fixture(scope="module")
def b(folder):
    return Benchmark("gpt-s", folder=folder)


def sampled(b, n, seed=0):
    return b.space.sample_unique(n, np.random.default_rng(seed))


def test_answers_do_not_depend_on_the_batch_the_cache_or_the_columns(b, folder):
    archs = sampled(b, 120)
    whole = b.query(archs, quantiles=(0.1, 0.9))
    for fresh in (b, Benchmark("gpt-s", folder=folder, cache_size=0)):
        for i in (0, 50, 119):
            alone = fresh.query(archs[i].id, quantiles=(0.1, 0.9))
            pd.testing.assert_frame_equal(alone, whole.iloc[[i]], check_exact=True)
        some = fresh.query(archs, "latency", "h100")
        np.testing.assert_array_equal(some.to_numpy(), whole[list(some.columns)].to_numpy())
    assert (whole.to_numpy() > 0).all()


def test_other_processes_can_be_sent_a_benchmark_and_its_objectives(b):
    genes = b.genes(sampled(b, 5))
    objective = b.objective(("perplexity", ("latency", "a100")))
    again, sent = pickle.loads(pickle.dumps((b, objective)))
    np.testing.assert_array_equal(again.query(genes, out="numpy"), b.query(genes, out="numpy"))
    np.testing.assert_array_equal(sent(genes), objective(genes))
    assert objective(genes).shape == (5, 2)


@pytest.mark.parametrize("name", ["arrays.npz", "residual_0.ubj", "residual_2.ubj"])
def test_a_damaged_file_is_named(folder, tmp_path, name):
    copy = shutil.copytree(folder, tmp_path / "gpt-s")
    raw = (copy / name).read_bytes()
    (copy / name).write_bytes(raw[:100] + bytes([raw[100] ^ 1]) + raw[101:])
    with pytest.raises(ValueError, match=rf"{name} is damaged"):
        Benchmark("gpt-s", folder=copy)
    (copy / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} is missing"):
        Benchmark("gpt-s", folder=copy)


def test_a_benchmark_of_another_space_is_refused(folder):
    with pytest.raises(ValueError, match="another space 'gpt-s', not of 'gpt-m'"):
        Benchmark("gpt-m", folder=folder)


def test_a_device_adapted_from_its_measurements_is_asked_like_the_others(b, folder, tmp_path):
    archs = sampled(b, 30, seed=1)
    measured = 3.0 * b.query(archs, "latency", "a100", out="numpy")[:, 0] + 0.5
    device = b.adapt(archs, measured, name="mybox", workload=Workload(1, 128))
    new = sampled(b, 50, seed=2)
    for added in (device, save_device(tmp_path / "mybox", device)):
        ours = Benchmark("gpt-s", folder=folder, extra_devices=[added])
        frame = ours.query(new, "latency", ("mybox", "a100"), quantiles=(0.1, 0.9))
        expected = 3.0 * frame["latency_ms", "a100", "median"] + 0.5
        np.testing.assert_allclose(frame["latency_ms", "mybox", "median"], expected, rtol=0.01)
        assert (frame["latency_ms", "mybox", "q0.1"] <= frame["latency_ms", "mybox", "q0.9"]).all()
        np.testing.assert_array_equal(
            frame.iloc[7].to_numpy(),
            ours.query(new[7], "latency", ("mybox", "a100"), quantiles=(0.1, 0.9), out="numpy")[0],
        )
        assert ours.devices.loc["mybox", ["batch_size", "seq_len", "n_train"]].tolist() == [1, 128, 30]
        with pytest.raises(ValueError, match="mybox"):
            ours.adapt(archs, measured, name="mybox", workload=Workload(1, 128))
    with pytest.raises(ValueError, match="2 architectures and values"):
        b.adapt(archs[:2], measured[:3], name="other", workload="prefill-b1-t128-float32")


def test_levels_that_an_added_device_cannot_give_stop_only_those_who_ask_it(b, folder):
    archs = sampled(b, 10, seed=3)
    device = b.adapt(archs, b.query(archs, "latency", "a100", out="numpy")[:, 0], name="few", workload=Workload(1, 128))
    ours = Benchmark("gpt-s", folder=folder, extra_devices=[device])
    with pytest.raises(ValueError, match="at least 19 rows"):
        ours.query(archs[0], "latency", "few", quantiles=(0.05, 0.95))
    assert ours.query(archs[0], "latency", "a100", quantiles=(0.05, 0.95)).shape == (1, 3)


# --- evaluation -----------------------------------------------------------------------------------------------------


def table_of(b, path, archs, *, factor=1.0, targets=TARGETS[:3], workload=None):
    values = b.query(archs, out="records")
    found = {(row["architecture"], row["metric"], row["device"]): row["median"] for row in values}
    table = MeasurementTable(path)
    table.append(
        [
            Measurement(
                space="gpt-s", architecture=arch.id, metric=key.metric, unit=METRICS[key.metric].unit,
                device=key.device, workload=workload or workload_of(key.metric, "s", key.device),
                repeats=(factor * found[arch.id, *key],), order=i,
            )
            for key in targets
            for i, arch in enumerate(archs)
        ]
    )  # fmt: skip
    return table


def test_scores_on_a_table_are_those_of_its_held_out_rows(b, tmp_path):
    archs = sampled(b, 200, seed=4)
    held = [arch for arch in archs if bucket("s", arch) in (0, 1)]
    table = table_of(b, tmp_path / "t", archs, factor=1.02)
    scores = b.evaluate(table)
    assert list(scores.index) == [tuple(key) for key in TARGETS[:3]]
    assert (scores["n"] == len(held)).all() and (scores["n_train"] == 600).all()
    np.testing.assert_allclose(scores["mape"], 100 * (1 - 1 / 1.02), rtol=1e-6)
    np.testing.assert_allclose(scores["kendall"], 1)
    everything = b.evaluate(str(tmp_path / "t"), held_out=False)
    assert (everything["n"] == 200).all()
    pd.testing.assert_frame_equal(b.evaluate(table.read(), held_out=False), everything)


def test_scores_without_a_table_are_those_of_the_card(b):
    assert list(b.evaluate().index) == [tuple(key) for key in TARGETS]
    np.testing.assert_allclose(b.evaluate()["mape"], 1.0, rtol=0.02)
    assert b.evaluate().loc[("latency_ms", "a100"), "coverage90"] == 1


def test_tables_that_cannot_be_scored_say_why(b, tmp_path):
    archs = sampled(b, 30, seed=5)
    other = table_of(b, tmp_path / "other", archs, workload=Workload(2, 64))
    with (
        pytest.warns(UserWarning, match="the table is of prefill-b2-t64-float32, the surrogate of prefill-b8-t1024"),
        pytest.raises(ValueError, match="no two held-out architectures"),
    ):
        b.evaluate(other)
    trained = [arch for arch in archs if bucket("s", arch) > 1]
    with pytest.raises(ValueError, match="no two held-out architectures"):
        b.evaluate(table_of(b, tmp_path / "trained", trained))
    with pytest.raises(ValueError, match="this benchmark predicts latency_ms"):
        b.evaluate(table_of(b, tmp_path / "same", archs).read().assign(metric="tokens_per_s"))
