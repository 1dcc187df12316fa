"""paretolm search, as a user runs it: on fitted surrogates, and on a supernet."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from search_fakes import latency, loss

from hw_profiles.device import Workload
from hw_profiles.table import Measurement, MeasurementTable
from search.budget import Budget
from search.objectives import SurrogateObjective
from search.result import SearchResult
from search.setup import Context, budget_objectives, find_space, surrogate_objective
from supernet.space import SearchSpace
from surrogates.fit import fit_surrogates
from surrogates.store import load_set, save_set

ALGORITHMS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf/algorithm").glob("*.yaml"))

SPACE = SearchSpace(
    name="cli", n_embd=(16, 32, 48), n_layer=(1, 2, 3), n_head=(1, 2, 3), mlp_ratio=(1, 2, 4),
    config={"head_size": 16, "vocab_size": 256, "padded_vocab_size": 256, "block_size": 16},
)  # fmt: skip


@pytest.fixture(scope="module")
def surrogates(tmp_path_factory):
    """Surrogates of perplexity and latency_ms, fitted to 60 networks."""
    rng, workload = np.random.default_rng(0), Workload(1, 16)
    archs = SPACE.sample_unique(60, rng)
    rows = []
    for metric, unit, device, values in (
        ("perplexity", "1", "any", np.exp(loss(archs))),
        ("latency_ms", "ms", "test-cpu", latency(archs)),
    ):
        rows += [
            Measurement("cli", a.id, metric, unit, device, workload, (v, v * 1.01))
            for a, v in zip(archs, values.tolist(), strict=True)
        ]
    folder = tmp_path_factory.mktemp("fitted")
    table = MeasurementTable(folder / "table")
    table.append(rows)
    return save_set(folder / "surrogates", fit_surrogates(table.read(), SPACE), command="test")


def paretolm(*arguments, cwd):
    code = "import sys; from supernet.dispatch import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_surrogate_objectives_are_the_surrogates_predictions(surrogates):
    found = load_set(surrogates)
    archs = SPACE.sample_unique(30, np.random.default_rng(1))
    mean = SurrogateObjective(found["latency_ms"])
    upper = SurrogateObjective(found["latency_ms"], quantile=0.9)
    np.testing.assert_array_equal(mean(archs), found.predict(archs, "latency_ms").mean)
    np.testing.assert_array_equal(upper(archs), found.predict(archs, "latency_ms", levels=(0.9,)).quantile(0.9))
    assert (upper(archs) > mean(archs)).mean() > 0.9
    assert mean.is_free
    assert not SurrogateObjective(found["perplexity"]).is_free
    assert (mean.name, mean.unit, mean.device) == ("latency_ms", "ms", "test-cpu")
    assert mean.identity == SurrogateObjective(load_set(surrogates)["latency_ms"]).identity != upper.identity
    assert mean([]).shape == (0,)


def test_surrogates_of_another_space_and_missing_ones_are_refused(surrogates):
    other = Context(SearchSpace.from_dict(SPACE.to_dict() | {"n_layer": (1, 2), "config": {"head_size": 16}}))
    with pytest.raises(ValueError, match="surrogates of space 'cli', the search is in 'cli'"):
        surrogate_objective(other, folder=surrogates, metric="latency_ms")
    with pytest.raises(ValueError, match="give surrogates="):
        surrogate_objective(other, folder=None, metric="latency_ms")
    with pytest.raises(KeyError, match="no surrogate of 'energy_mj'"):
        surrogate_objective(Context(SPACE), folder=surrogates, metric="energy_mj")


def test_the_space_is_found_where_it_was_given(surrogates, tmp_path):
    (tmp_path / "space.json").write_text(json.dumps(SPACE.to_dict()))
    assert find_space(None, surrogates=surrogates).to_dict() == SPACE.to_dict()
    assert find_space(None, supernet=tmp_path).to_dict() == SPACE.to_dict()
    assert find_space("tiny", surrogates=surrogates).name == "tiny"
    with pytest.raises(ValueError, match="no search space: give surrogates="):
        find_space(None)


def test_budgets_can_be_on_any_metric_that_was_fitted(surrogates):
    assert {o.name for o in budget_objectives(surrogates)} == {"perplexity", "latency_ms"}
    assert budget_objectives(None) == []


def test_search_on_surrogates_writes_its_files_and_ends_with_one_line(surrogates, tmp_path):
    arguments = ("search", f"surrogates={surrogates}", "n_evaluations=60", "n_free_evaluations=200", "progress=false")
    arguments += ("algorithm=nsga2",)
    arguments += ("run_dir=out", "+budget.latency_ms=0.4")
    done = paretolm(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert done.stdout.strip().splitlines()[-1].startswith("search: ")
    assert str(out) in done.stdout.strip().splitlines()[-1]
    result = SearchResult.load(out)
    assert len(result.evaluations) == 60
    assert result.front["latency_ms"].max() <= 0.4
    assert result.details["budgets"] == [str(Budget("latency_ms", 0.4))]
    assert {s["name"] for s in result.details["standings"]} == {"nsga2", "random", "parameter_count"}
    for name in ("config.yaml", "run.json", "state.json", "front.parquet", "baselines/random/summary.json"):
        assert (out / name).is_file(), name
    again = paretolm(*arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    pd.testing.assert_frame_equal(SearchResult.load(out).evaluations, result.evaluations)


def test_a_mistake_ends_with_one_clear_message(surrogates, tmp_path):
    done = paretolm("search", f"surrogates={surrogates}", "+budget.latency_ms=1e-9", "run_dir=out", cwd=tmp_path)
    assert done.returncode == 1
    assert "cannot be met in space 'cli': the smallest value found" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("objectives", ["perplexity-latency", "live-perplexity", "params-latency", "benchmark"])
def test_every_configuration_composes(algorithm, objectives):
    from hydra import compose, initialize_config_module

    with initialize_config_module("supernet.conf", version_base="1.3"):
        cfg = compose("search", [f"algorithm={algorithm}", f"objectives={objectives}", "space=tiny", "data=stdlib"])
    assert len(cfg.objectives) == 2
    assert all(node._target_.startswith("search.setup.") for node in cfg.objectives.values())
    assert cfg.algorithm._partial_


def test_parameters_against_latency_needs_no_quality(surrogates, tmp_path):
    done = paretolm(
        "search", f"surrogates={surrogates}", "objectives=params-latency", "algorithm=nsga2-100", "n_evaluations=200",
        "progress=false", "run_dir=out", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = SearchResult.load(tmp_path / "out")
    assert result.names == ["-n_params_decoder", "latency_ms"]
    assert result.details["standings"] == []


@pytest.mark.parametrize(
    "algorithm", ["model-guided", "lts-warm-start", "mo-rea", "local-search", "nsga3", "sms-emoa", "ehvi"]
)
def test_every_algorithm_searches_from_the_command_line(surrogates, tmp_path, algorithm):
    done = paretolm(
        "search", f"surrogates={surrogates}", "objectives=perplexity-latency", f"algorithm={algorithm}",
        "n_evaluations=60", "progress=false", "run_dir=out", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(SearchResult.load(tmp_path / "out").evaluations) == 60


@pytest.mark.slow
def test_search_on_a_live_supernet_evaluates_each_network_once(surrogates, tmp_path):
    import litgpt
    import torch

    from supernet.architecture import Architecture
    from supernet.checkpoint import save_supernet
    from supernet.evaluate import evaluate
    from supernet.model import Supernet

    torch.manual_seed(0)
    supernet = Supernet(litgpt.Config(**SPACE.config))
    for parameter in supernet.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save_supernet(tmp_path / "supernet", supernet, space=SPACE)
    text = tmp_path / "text.txt"
    text.write_text("def add(a, b):\n    return a + b\n" * 200)
    arguments = (
        "search", f"surrogates={surrogates}", f"supernet={tmp_path / 'supernet'}", "objectives=live-perplexity",
        "data=text", f"data.source={text}", "data.seq_len=16", "data.batch_size=4", "data.val_fraction=0.2",
        f"data.cache_dir={tmp_path / 'cache'}", "n_evaluations=30", "n_free_evaluations=100", "batch=10",
        "progress=false", "run_dir=out",
    )  # fmt: skip
    done = paretolm(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = SearchResult.load(tmp_path / "out")
    (cache,) = (tmp_path / "out" / "quality").iterdir()
    cached = [json.loads(line) for line in Path(cache).read_text().splitlines()]
    assert len({c["architecture"] for c in cached}) == len(cached) <= 90
    from supernet.data import TextDataModule

    blocks = TextDataModule(
        str(text), seq_len=16, batch_size=4, val_fraction=0.2, cache_dir=tmp_path / "cache"
    ).val_blocks
    first = result.evaluations.iloc[0]
    (expected,) = evaluate(supernet, [Architecture.from_id(first["architecture"])], blocks)
    assert first["perplexity"] == pytest.approx(expected.perplexity, rel=1e-5)
