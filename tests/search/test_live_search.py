"""A search on a real, tiny supernet: engines agree, fidelities add up, and the command line runs to measured picks."""

import json
import os
import shutil
import signal
import subprocess
import sys

import litgpt
import numpy as np
import pandas as pd
import pytest
import torch
from search_fakes import latency

from hw_profiles.device import Workload
from hw_profiles.table import Measurement, MeasurementTable
from search.algorithms.moasha import MOASHA
from search.engines import EngineSettings
from search.fidelity import FidelityObjective
from search.live import LivePerplexityObjective
from search.live_supernet import spread_order
from search.objectives import FunctionObjective
from search.picks import load_picks
from search.result import SearchResult
from search.run import run_search
from supernet.checkpoint import save_supernet
from supernet.evaluate import evaluate
from supernet.model import Supernet
from supernet.space import SearchSpace
from surrogates.fit import fit_surrogates
from surrogates.store import save_set

SPACE = SearchSpace(
    name="live", n_embd=(16, 32, 48), n_layer=(1, 2, 3), n_head=(1, 2, 3), mlp_ratio=(1, 2, 4),
    config={"head_size": 16, "vocab_size": 256, "padded_vocab_size": 256, "block_size": 16},
)  # fmt: skip
BLOCKS = np.random.default_rng(0).integers(0, 256, (54, 17))


@pytest.fixture(scope="module")
def supernet():
    torch.manual_seed(0)
    network = Supernet(litgpt.Config(**SPACE.config))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


@pytest.fixture(scope="module")
def folder(supernet, tmp_path_factory):
    return save_supernet(tmp_path_factory.mktemp("trained") / "supernet", supernet, space=SPACE)


def objective(folder, **changes):
    return LivePerplexityObjective.from_supernet(folder, BLOCKS, **({"batch_size": 4, "n_bytes": 5000} | changes))


def nets(n=6):
    return SPACE.sample_unique(n, np.random.default_rng(1))


def test_the_objective_is_the_evaluation_of_the_same_text(supernet, folder):
    found, expected = objective(folder).records(nets()), evaluate(supernet, nets(), BLOCKS, n_bytes=5000)
    for record, exact in zip(found, expected, strict=True):
        assert record.loss == pytest.approx(exact.loss, rel=1e-6)
        assert record.perplexity == pytest.approx(exact.perplexity, rel=1e-5)
        assert record.stderr == pytest.approx(exact.stderr, rel=1e-4)
        assert record.bits_per_byte == pytest.approx(exact.bits_per_byte, rel=1e-6)
        assert record.n_tokens == exact.n_tokens == 54 * 16


def test_a_part_is_a_spread_share_of_the_text_and_parts_add_up_bit_for_bit(supernet, folder):
    live = objective(folder)
    assert isinstance(live, FidelityObjective)
    assert [live.tokens(f) for f in (1 / 27, 1 / 9, 1 / 3, 1.0)] == [32, 96, 288, 864]
    for fidelity in (1 / 27, 1 / 9, 1 / 3):
        part = BLOCKS[spread_order(54)[: round(54 * fidelity)]]
        exact = [e.perplexity for e in evaluate(supernet, nets(), part)]
        np.testing.assert_allclose(live.at(nets(), [fidelity] * 6), exact, rtol=1e-5)
    np.testing.assert_array_equal(live(nets()), objective(folder)(nets()))


@pytest.mark.slow
def test_several_processes_give_the_serial_results_bit_for_bit(folder, tmp_path):
    archs = nets(9)
    serial = objective(folder, engine=EngineSettings(threads=1))
    live = objective(folder, engine=EngineSettings("processes", workers=2, threads=1), cache_dir=tmp_path)
    np.testing.assert_array_equal(live.at(archs[:4], [1 / 9] * 4), serial.at(archs[:4], [1 / 9] * 4))
    np.testing.assert_array_equal(live(archs), serial(archs))
    live.close()


@pytest.mark.slow
def test_a_ray_cluster_started_for_the_search_gives_the_serial_results_and_ends_with_it(folder):
    ray = pytest.importorskip("ray")
    archs = nets(5)
    live = objective(folder, engine=EngineSettings("ray", workers=2))
    np.testing.assert_array_equal(live(archs), objective(folder, engine=EngineSettings(threads=1))(archs))
    live.close()
    assert not ray.is_initialized()


def test_evaluating_leaves_torchs_threads_as_they_were(folder):
    before = torch.get_num_threads()
    objective(folder, engine=EngineSettings(threads=before + 1))(nets(1))
    assert torch.get_num_threads() == before


def test_a_worker_without_the_folder_says_so(folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "gone")
    live = objective(moved, engine=EngineSettings("processes", workers=1, threads=1))
    shutil.rmtree(moved)
    with pytest.raises(FileNotFoundError, match="all machines that evaluate must see the supernet's folder"):
        live(nets(1))


def search(folder, run_dir, **changes):
    objectives = [objective(folder, cache_dir=run_dir / "quality"), FunctionObjective("latency_ms", latency, unit="ms")]
    arguments = {"algorithm": MOASHA, "n_evaluations": 8, "batch": 6, "seed": 3, "run_dir": run_dir}
    return run_search(SPACE, objectives, **(arguments | changes)), objectives[0]


def test_moasha_on_a_supernet_reads_no_block_twice(folder, tmp_path):
    result, _ = search(folder, tmp_path)
    spent = result.details["spent"]
    assert spent["tokens_per_evaluation"] == 864
    assert 7 < spent["evaluations"] <= 8
    assert len(result.evaluations) == spent["rungs"][-1]["n_networks"] > 0
    (file,) = (tmp_path / "quality").iterdir()
    spans = [
        (line["architecture"], start, stop)
        for line in map(json.loads, file.read_text().splitlines())
        for start, stop, *_ in line["ranges"]
    ]
    assert len(set(spans)) == len(spans)
    assert sum(stop - start for _, start, stop in spans) * 16 == spent["tokens"]
    exact = objective(folder)(result.front_architectures)
    np.testing.assert_array_equal(result.front["perplexity"], exact)


@pytest.mark.slow
def test_moasha_on_a_supernet_finds_the_same_in_several_processes(folder, tmp_path):
    serial, _ = search(folder, tmp_path / "serial")
    live = objective(folder, engine=EngineSettings("processes", workers=2, threads=torch.get_num_threads()))
    other = run_search(
        SPACE, [live, FunctionObjective("latency_ms", latency, unit="ms")], algorithm=MOASHA, n_evaluations=8, batch=6,
        seed=3,
    )  # fmt: skip
    live.close()
    pd.testing.assert_frame_equal(other.evaluations, serial.evaluations, check_exact=True)


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def surrogates(tmp_path_factory):
    rows, workload = [], Workload(1, 16)
    for arch in SPACE.sample_unique(60, np.random.default_rng(0)):
        value = float(latency([arch])[0])
        rows.append(Measurement("live", arch.id, "latency_ms", "ms", "test-cpu", workload, (value, value * 1.01)))
    folder = tmp_path_factory.mktemp("fitted")
    table = MeasurementTable(folder / "table")
    table.append(rows)
    return save_set(folder / "surrogates", fit_surrogates(table.read(), SPACE), command="test")


@pytest.fixture
def paretolm_search(folder, surrogates, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"def add_{i}(a, b):\n    return a + {i} * b\n" for i in range(150)))
    fixed = (
        f"surrogates={surrogates}", f"supernet={folder}", "objectives=live-perplexity", "data=text",
        f"data.source={text}", "data.seq_len=16", "data.batch_size=4", "data.val_fraction=0.2",
        f"data.cache_dir={tmp_path / 'cache'}", "n_free_evaluations=100", "progress=false", "run_dir=out",
    )  # fmt: skip

    def start(*arguments):
        code = "import sys; from supernet.dispatch import main; sys.exit(main(sys.argv[1:]))"
        return subprocess.Popen(
            [sys.executable, "-c", code, "search", *fixed, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    return start


def finished(process):
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return out


@pytest.mark.slow
def test_moasha_searches_a_supernet_from_the_command_line(paretolm_search, tmp_path):
    out = finished(paretolm_search("algorithm=moasha", "n_evaluations=12", "engine=processes", "engine.workers=2"))
    assert out.strip().splitlines()[-1].startswith("search: ")
    result = SearchResult.load(tmp_path / "out")
    assert result.algorithm == "moasha"
    assert 11 < result.details["spent"]["evaluations"] <= 12
    standings = {s["name"]: s for s in result.details["standings"]}
    assert set(standings) == {"moasha", "random", "parameter_count"}
    assert standings["moasha"]["n_evaluations"] == 11
    assert "quantile 0.9" in result.objectives[1].identity


@pytest.mark.slow
def test_a_live_search_ends_with_measured_picks(paretolm_search, tmp_path):
    out = finished(
        paretolm_search("n_evaluations=15", "batch=10", "baselines=[random]", "remeasure.n=3", "remeasure.repeats=3")
    )
    assert "measured: hypervolume of the picks: " in out
    picks = load_picks(tmp_path / "out" / "picks.parquet")
    assert {pick.search for pick in picks} == {"model_guided", "random", ""}
    result = SearchResult.load(tmp_path / "out")
    found = dict(zip(result.evaluations["architecture"], result.evaluations["perplexity"], strict=True))
    mine = [pick for pick in picks if pick.search == "model_guided"]
    assert len(mine) >= 3 or len(result.front) < 3
    for pick in mine:
        assert pick.perplexity == found[pick.architecture.id]  # the cache has it
        assert pick.latency_ms > 0
        assert pick.n_repeats == 3
        assert np.isfinite(pick.predicted_latency_ms)


@pytest.mark.slow
def test_ctrl_c_ends_the_command_and_its_workers_and_the_search_goes_on_later(paretolm_search, tmp_path):
    arguments = ("n_evaluations=400", "batch=4", "baselines=[]", "engine=processes", "engine.workers=2")
    process = paretolm_search(*arguments)
    workers = wait_for_state(process, tmp_path / "out" / "state.json")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert len(workers) == 2
    assert not any(worker.is_running() and worker.status() != "zombie" for worker in workers)
    done = json.loads((tmp_path / "out" / "state.json").read_text())["n_evaluations"]
    assert 0 < done < 400
    finished(paretolm_search(*arguments[1:], f"n_evaluations={done + 4}"))
    assert len(SearchResult.load(tmp_path / "out").evaluations) == done + 4


def wait_for_state(process, state):
    import time

    import psutil

    end = time.monotonic() + 120
    while not state.is_file() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    return psutil.Process(process.pid).children()
