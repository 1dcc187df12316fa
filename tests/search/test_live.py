"""The live objective: caches by architecture on disk, survives a damaged line, keeps NaN."""

import math
import subprocess
import sys

import numpy as np
import pytest
from search_fakes import large_space, loss

from search.live import LivePerplexityObjective, QualityRecord


class Counting:
    def __init__(self):
        self.evaluated = []

    def __call__(self, archs):
        self.evaluated += archs
        return [QualityRecord(x, math.exp(x), x / 2, 0.1, 1000) for x in loss(archs)]


def archs(n):
    return large_space().sample_unique(n, np.random.default_rng(0))


def test_every_network_is_evaluated_once_even_across_runs(tmp_path):
    first, second = Counting(), Counting()
    objective = LivePerplexityObjective(first, source="a", cache_dir=tmp_path)
    nets = archs(5)
    values = objective([*nets[:3], nets[0]])
    np.testing.assert_allclose(values[:3], np.exp(loss(nets[:3])), rtol=1e-14)
    assert first.evaluated == nets[:3]
    again = LivePerplexityObjective(second, source="a", metric="loss", cache_dir=tmp_path)
    np.testing.assert_array_equal(again(nets), loss(nets))
    assert second.evaluated == nets[3:]
    assert again.n_evaluated == 5


def test_other_weights_or_data_do_not_share_the_cache(tmp_path):
    LivePerplexityObjective(Counting(), source="a", cache_dir=tmp_path)(archs(2))
    other = Counting()
    objective = LivePerplexityObjective(other, source="b", cache_dir=tmp_path)
    objective(archs(2))
    assert len(other.evaluated) == 2
    assert objective.identity == "perplexity of b"


@pytest.mark.parametrize("cut", [1, 5, 60])
def test_a_line_cut_short_by_a_kill_is_warned_of_and_evaluated_again(tmp_path, caplog, cut):
    nets = archs(4)
    LivePerplexityObjective(Counting(), source="a", cache_dir=tmp_path)(nets[:3])
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[: -cut - 1])
    evaluator = Counting()
    objective = LivePerplexityObjective(evaluator, source="a", cache_dir=tmp_path)
    assert "line 3 is damaged" in caplog.text
    np.testing.assert_allclose(objective(nets), np.exp(loss(nets)), rtol=1e-14)
    assert evaluator.evaluated == nets[2:]
    clean = Counting()
    cached = LivePerplexityObjective(clean, source="a", cache_dir=tmp_path)
    np.testing.assert_allclose(cached(nets), np.exp(loss(nets)), rtol=1e-14)
    assert clean.evaluated == []


def test_a_network_without_a_number_is_remembered_as_nan(tmp_path):
    def broken(archs):
        return [QualityRecord(math.nan, math.inf, math.nan, math.nan, 0) for _ in archs]

    assert np.isinf(LivePerplexityObjective(broken, source="a", cache_dir=tmp_path)(archs(1))).all()
    evaluator = Counting()
    assert np.isnan(LivePerplexityObjective(evaluator, source="a", cache_dir=tmp_path)(archs(1))).all()
    assert evaluator.evaluated == []


def test_errors_of_perplexity_follow_from_those_of_the_loss():
    record = QualityRecord(2.0, math.exp(2.0), 1.0, 0.01, 100)
    exact = (math.exp(2.0 + 0.01) - math.exp(2.0 - 0.01)) / 2
    assert record.perplexity_stderr == pytest.approx(exact, rel=1e-3)


def test_an_unknown_metric_and_a_folder_without_a_supernet_are_refused(tmp_path):
    with pytest.raises(ValueError, match="allowed: perplexity, loss, bits_per_byte"):
        LivePerplexityObjective(Counting(), source="a", metric="accuracy")
    with pytest.raises(FileNotFoundError, match="holds no supernet"):
        LivePerplexityObjective.from_supernet(tmp_path, np.zeros((2, 5)))


def test_making_the_objective_of_a_supernet_does_not_import_torch(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    code = (
        "import sys, numpy as np\n"
        "from search.live import LivePerplexityObjective\n"
        f"objective = LivePerplexityObjective.from_supernet({str(tmp_path)!r}, np.zeros((2, 5), dtype=np.uint16))\n"
        "assert objective.name == 'perplexity' and objective([]).shape == (0,)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
