import pickle

import pandas as pd
import pytest
from hwgpt_fakes import FakeBenchmark, canonical_of, clone_with_history, git

from hw_profiles.importers.hwgpt_devices import DEVICES, MEASURED, Selection
from hw_profiles.importers.hwgpt_protocol import bucket, space_of
from hw_profiles.importers.hwgpt_repository import import_hwgpt_repository
from hw_profiles.importers.hwgpt_tables import import_hwgpt_tables
from hw_profiles.table import MeasurementTable
from supernet.architecture import Architecture

ONLY_M = Selection(scales=("m",))
LEFT_OUT = "ignore:latency_a6000:UserWarning"
pytestmark = pytest.mark.filterwarnings(LEFT_OUT)


def read(table):
    frame = MeasurementTable(table).read()
    frame["repeats"], frame["reference_repeats"] = frame["repeats"].map(tuple), frame["reference_repeats"].map(tuple)
    return frame.sort_values(["space", "metric", "device", "order"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def benchmark():
    return FakeBenchmark("m")


@pytest.fixture
def raw(benchmark, tmp_path):
    """A folder of raw files of scale m that tests may change."""
    benchmark.write_raw(tmp_path / "raw")
    return tmp_path / "raw"


def rewrite(path, change):
    rows = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(change(rows)))


@pytest.mark.parametrize("scale", ["s", "m", "l"])
def test_the_repositorys_history_and_the_tidy_tables_give_the_same_rows(scale, tmp_path):
    fake, only = FakeBenchmark(scale), Selection(scales=(scale,))
    commit = clone_with_history(tmp_path / "clone", [fake])
    import_hwgpt_repository(tmp_path / "clone", tmp_path / "b", selection=only, commit=commit)
    import_hwgpt_tables(fake.write_tidy(tmp_path / "tidy"), tmp_path / "a", selection=only)
    ours, tidy = read(tmp_path / "b"), read(tmp_path / "a")
    assert set(ours["metric"]) == set(MEASURED)
    assert len(ours) == len(fake.kept) * (14 + 8 + 12 + 2) + 2 * sum(i < len(fake.quality) for i in fake.kept)
    pd.testing.assert_frame_equal(ours, tidy, check_exact=True)


def test_raw_files_that_are_checked_out_are_read_without_git(benchmark, raw, tmp_path):
    import_hwgpt_repository(raw, tmp_path / "b", selection=ONLY_M)
    import_hwgpt_tables(benchmark.write_tidy(tmp_path / "tidy"), tmp_path / "a", selection=ONLY_M)
    pd.testing.assert_frame_equal(read(tmp_path / "b"), read(tmp_path / "a"), check_exact=True)


def test_held_out_architectures_come_only_when_asked_for(benchmark, raw, tmp_path):
    only = Selection(scales=("m",), metrics=("latency_ms",), devices=("h100",))
    import_hwgpt_repository(raw, tmp_path / "without", selection=only)
    import_hwgpt_repository(raw, tmp_path / "with", selection=only, keep_held_out=True)
    without, all_of_them = read(tmp_path / "without"), read(tmp_path / "with")
    assert without["order"].tolist() == benchmark.kept
    assert all_of_them["order"].tolist() == list(range(len(benchmark.archs)))
    buckets = [bucket("m", Architecture.from_id(text)) for text in all_of_them["architecture"]]
    assert 0 < buckets.count(0) == len(all_of_them) - len(without)


def test_without_a_list_of_architectures_the_a100s_order_stands_for_it(benchmark, raw, tmp_path):
    import_hwgpt_repository(raw, tmp_path / "a", selection=ONLY_M)
    (raw / "sampled_archs_m.pkl").unlink()
    import_hwgpt_repository(raw, tmp_path / "b", selection=ONLY_M)
    pd.testing.assert_frame_equal(read(tmp_path / "b"), read(tmp_path / "a"), check_exact=True)


def test_what_is_left_out_is_said(raw, tmp_path):
    only = Selection(scales=("m",), metrics=("latency_ms",), devices=("a6000",))
    with pytest.warns(UserWarning, match=r"latency_a6000_m: 17 observations .* not in the list, and 0 of"):
        import_hwgpt_repository(raw, tmp_path / "t", selection=only)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("latency_a40_m/efficiency_observations_0_30.pkl", lambda rows: rows[1:], "1 of 60 architectures have no obs"),
        ("latency_a40_m/efficiency_observations_0_30.pkl", lambda rows: dict(enumerate(rows)), "list of dictionaries"),
        ("latency_a40_m/efficiency_observations_0_30.pkl", lambda rows: [1, 2], "found a list of int"),
        ("latency_a40_m/efficiency_observations_0_30.pkl", lambda rows: [{"x": 1}], "expected a dictionary `arch`"),
        ("latency_a40_m/efficiency_observations_0_30.pkl",
         lambda rows: [r | {"times_profiler_gpu": [1.0] * 9} for r in rows], "expected 10 times with units, found 9"),
        ("latency_a40_m/efficiency_observations_0_30.pkl",
         lambda rows: [r | {"times_profiler_gpu": None} for r in rows], "times_profiler_gpu is a NoneType"),
        ("latency_a40_m/efficiency_observations_0_30.pkl",
         lambda rows: [r | {"times_profiler_gpu": ["1"] * 10} for r in rows], "times_profiler_gpu holds '1'"),
        ("latency_a40_m/efficiency_observations_0_30.pkl",
         lambda rows: [r | {"unit_gpu": ["h"] * 10} for r in rows], "unit_gpu holds 'h'; expected s, ms, us"),
        ("latency_a40_m/efficiency_observations_0_30.pkl",
         lambda rows: [r | {"unit_energy": "J"} for r in rows], "unit_energy is 'J'; expected 'Wh'"),
        ("latency_a40_m/efficiency_observations_0_30.pkl",
         lambda rows: [r | {"mean_energy_gpu": -1.0} for r in rows], r"host_energy_mj of a40, arch_id 0, is -1.0"),
        ("latency_a40_m/efficiency_energy_observations_tracker_0_30.pkl",
         lambda rows: [r | {"unit_energy": "Wh"} for r in rows], "unit_energy is 'Wh'; expected 'KWh'"),
        ("latency_a40_m/efficiency_energy_observations_tracker_0_30.pkl",
         lambda rows: [r | {"energy_gpu": [0.1] * 12} for r in rows], "12 repeats; expected 50"),
        ("latency_a40_m/efficiency_energy_observations_tracker_0_30.pkl",
         lambda rows: [r | {"energy_gpu": [float("nan")] * 50} for r in rows], "energy_mj of a40, arch_id 0, is nan"),
        ("latency_a40_m/efficiency_energy_observations_tracker_0_30.pkl",
         lambda rows: [{"arch": r["arch"]} for r in rows], "expected 'unit_energy' in every observation"),
        ("sampled_archs_m.pkl", lambda rows: rows + rows[:1], "has an architecture twice"),
        ("sampled_archs_m.pkl", lambda rows: [rows[0] | {"sample_embed_dim": 192}, *rows[1:]],
         "architecture 0 has embed_dim = 192, which is not in space 'gpt-m'; allowed: 256, 512, 1024"),
    ],
)  # fmt: skip
def test_unexpected_files_are_refused_by_name_and_nothing_is_written(file, change, message, raw, tmp_path):
    rewrite(raw / file, change)
    with pytest.raises(ValueError, match=message) as caught:
        import_hwgpt_repository(raw, tmp_path / "t", selection=Selection(scales=("m",), devices=("a100", "a40")))
    assert file.partition("/")[0].removesuffix(".pkl") in str(caught.value) or str(raw) in str(caught.value)
    assert not (tmp_path / "t").exists()


def test_results_of_another_scale_are_no_results_of_this_one(raw, tmp_path):
    FakeBenchmark("s", n=120).write_raw(tmp_path / "s")
    for path in (raw / "latency_h100_m").glob("efficiency_observations*"):
        path.unlink()
    for path in (tmp_path / "s" / "latency_h100").glob("efficiency_observations*"):
        path.rename(raw / "latency_h100_m" / path.name)
    with pytest.raises(
        ValueError, match="latency_h100_m: 120 of 120 observations are of architectures not in the list"
    ):
        import_hwgpt_repository(raw, tmp_path / "t", selection=ONLY_M)


def test_lists_of_architectures_that_differ_are_refused(benchmark, raw, tmp_path):
    (raw / "old").mkdir()
    (raw / "old" / "sampled_archs_m.pkl").write_bytes(pickle.dumps(benchmark.archs[::-1]))
    with pytest.raises(ValueError, match=r"old/sampled_archs_m.pkl, sampled_archs_m.pkl differ"):
        import_hwgpt_repository(raw, tmp_path / "t", selection=ONLY_M)


def test_a_folder_that_is_in_two_places_is_refused(benchmark, raw, tmp_path):
    benchmark.write_raw(raw / "copy")
    with pytest.raises(ValueError, match=r"has latency_p100_m in several places|has latency_P100_m in several places"):
        import_hwgpt_repository(raw, tmp_path / "t", selection=ONLY_M)


def test_a_file_that_would_run_code_is_refused_by_what_it_calls(raw, tmp_path):
    class Attack:
        def __reduce__(self):
            import os

            return os.system, (f"touch {tmp_path / 'hacked'}",)

    path = raw / "latency_a100_m" / "efficiency_observations_0_30.pkl"
    path.write_bytes(pickle.dumps([{"arch": Attack()}]))
    with pytest.raises(ValueError, match=r"latency_a100_m/efficiency_observations_0_30.pkl of .* posix.system"):
        import_hwgpt_repository(raw, tmp_path / "t", selection=ONLY_M)
    assert not (tmp_path / "hacked").exists()


def test_a_clone_without_the_commit_says_how_to_get_it(tmp_path):
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "nothing")
    with pytest.raises(ValueError, match=r"has no commit 795cba8.*--unshallow"):
        import_hwgpt_repository(tmp_path, tmp_path / "t")


@pytest.mark.parametrize("commit", ["--all", "-h", "no-such-branch"])
def test_a_commit_that_is_none_is_refused(commit, tmp_path):
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "nothing")
    with pytest.raises(ValueError, match="has no commit"):
        import_hwgpt_repository(tmp_path, tmp_path / "t", commit=commit)


def test_a_commit_without_raw_files_is_refused_with_what_was_expected(tmp_path):
    commit = clone_with_history(tmp_path / "clone", [FakeBenchmark("s", n=20)])
    with pytest.raises(
        ValueError, match=r"no raw results: expected files such as latency_a100/efficiency_observations"
    ):
        import_hwgpt_repository(tmp_path / "clone", tmp_path / "t", commit="HEAD")
    assert commit != git(tmp_path / "clone", "rev-parse", "HEAD")


def test_a_folder_that_is_no_clone_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        import_hwgpt_repository(tmp_path / "nothing", tmp_path / "t")


def test_fakes_write_what_upstream_does():
    fake = FakeBenchmark("l", n=3)
    arch = fake.archs[0]
    assert len(arch["sample_n_head"]) == space_of("l").max_layer >= arch["sample_n_layer"]
    assert canonical_of("l", arch).startswith(f"gpt-l-{arch['sample_n_layer']}-{arch['sample_embed_dim']}-")
    assert set(fake.latency) == set(DEVICES)
