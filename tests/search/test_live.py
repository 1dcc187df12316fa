"""The live objective: caches by architecture on disk, survives a damaged line, keeps NaN."""

import json
import math
import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from search_fakes import large_space, loss

from search.live import LivePerplexityObjective, QualityRecord
from search.live_cache import QualityCache
from search.live_records import RangeLoss, combined
from search.live_supernet import SupernetObjective, spread_order


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


# --- sums over ranges -------------------------------------------------------------------------------------------------


def evaluation(losses, seq_len=10):
    """What supernet.evaluate gives of blocks with these mean losses."""
    n = len(losses)
    stderr = losses.std(ddof=1) / math.sqrt(n) if n > 1 else math.nan
    return SimpleNamespace(loss=losses.mean(), stderr=stderr, n_tokens=n * seq_len, n_blocks=n)


def test_ranges_add_up_to_the_scores_on_all_blocks_in_any_order():
    losses = np.random.default_rng(0).normal(3, 0.4, 50)
    parts = [RangeLoss.of(evaluation(losses[a:b]), a) for a, b in ((0, 1), (1, 6), (6, 17), (17, 50))]
    record = combined(parts, n_bytes=1500)
    assert record.loss == pytest.approx(losses.mean(), rel=1e-14)
    assert record.perplexity == pytest.approx(math.exp(losses.mean()), rel=1e-14)
    assert record.stderr == pytest.approx(losses.std(ddof=1) / math.sqrt(50), rel=1e-12)
    assert record.bits_per_byte == pytest.approx(losses.sum() * 10 / math.log(2) / 1500, rel=1e-14)
    assert record.n_tokens == 500
    assert combined(parts[::-1], n_bytes=1500) == record
    assert [RangeLoss.from_plain(json.loads(json.dumps(part.to_plain()))) for part in parts] == parts


def test_a_range_without_a_number_makes_the_whole_without_one():
    good, bad = RangeLoss(0, 2, 20, 60.0, 0.1), RangeLoss(2, 3, 10, math.nan, 0.0)
    assert math.isnan(combined([good, bad]).perplexity)
    assert math.isnan(RangeLoss.from_plain(bad.to_plain()).loss_sum)


@pytest.mark.parametrize("n", [1, 2, 7, 64, 100])
def test_every_beginning_of_the_order_is_spread_over_the_whole(n):
    order = spread_order(n)
    assert sorted(order) == list(range(n))
    for k in range(1, n + 1):
        places = np.sort(np.array(order[:k]))
        widest = max(np.diff(np.concatenate([[-1], places, [n]])))
        assert widest <= 2 ** math.ceil(math.log2(n)) / 2 ** math.floor(math.log2(k)) + 1


class Ranges:
    """Scores ranges of blocks whose losses are known, and notes what it was asked."""

    def __init__(self, losses):
        self.losses = losses  # of every block
        self.asked = []

    def __call__(self, missing):
        self.asked += [(arch, span) for arch, spans in missing.items() for span in spans]
        for arch, spans in missing.items():
            yield {arch.id: [RangeLoss.of(evaluation(self.losses[a:b] + loss([arch])[0]), a) for a, b in spans]}


def partial_objective(evaluate, cache_dir=None, **changes):
    arguments = {"n_blocks": 54, "seq_len": 10, "n_bytes": 5400, "source": "a", "cache_dir": cache_dir}
    return SupernetObjective(evaluate, **(arguments | changes))


def test_a_higher_fidelity_evaluates_only_what_is_missing(tmp_path):
    losses = np.random.default_rng(0).normal(3, 0.4, 54)
    evaluate, (net,) = Ranges(losses), archs(1)
    objective = partial_objective(evaluate, tmp_path)
    for fidelity, spans in ((1 / 27, [(0, 2)]), (1 / 3, [(2, 6), (6, 18)]), (1 / 9, []), (1.0, [(18, 54)]), (1.0, [])):
        evaluate.asked.clear()
        value = objective.at([net], [fidelity])
        assert [span for _, span in evaluate.asked] == spans
        n = round(54 * fidelity)
        np.testing.assert_allclose(value, np.exp(losses[:n].mean() + loss([net])[0]), rtol=1e-13)
        assert objective.tokens(fidelity) == 10 * n
    again = Ranges(losses)
    cached = partial_objective(again, tmp_path)
    assert cached([net]) == objective([net])
    assert cached.at([net], [1 / 9]) == objective.at([net], [1 / 9])
    assert again.asked == []
    assert cached.n_evaluated == 1


def test_the_value_does_not_depend_on_the_way_to_it():
    losses, nets = np.random.default_rng(0).normal(3, 0.4, 54), archs(3)
    at_once, stepwise = (partial_objective(Ranges(losses)) for _ in range(2))
    stepwise.at([nets[0], nets[1], nets[0]], [1 / 27, 1 / 9, 1 / 3])
    np.testing.assert_array_equal(stepwise(nets), at_once(nets))


def test_fidelities_of_other_sizes_are_taken_together(tmp_path):
    losses, (net,) = np.random.default_rng(0).normal(3, 0.4, 54), archs(1)
    objective = partial_objective(Ranges(losses), tmp_path)
    for fidelity in (0.5, 0.3, 1 / 27, 0.7, 1 / 3, 1.0):
        value = objective.at([net], [fidelity])
        np.testing.assert_allclose(value, np.exp(losses[: round(54 * fidelity)].mean() + loss([net])[0]), rtol=1e-13)
        chain = QualityCache(next(tmp_path.iterdir())).chain(net.id, round(54 * fidelity))
        assert chain[0].start == 0
        assert chain[-1].stop == round(54 * fidelity)
        assert all(a.stop == b.start for a, b in pairwise(chain))


@pytest.mark.parametrize("fidelity", [0.0, 1.2, -1.0])
def test_a_fidelity_outside_0_to_1_is_refused(fidelity):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        partial_objective(Ranges(np.zeros(54))).at(archs(1), [fidelity])


# --- several processes, one cache -------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from search.live_cache import QualityCache
from search.live_records import QualityRecord, RangeLoss

me, file = int(sys.argv[1]), Path(sys.argv[2])
cache = QualityCache(file)
print("ready", flush=True)
sys.stdin.readline()
for i in range(150):
    value = me + i / 1000
    name = f"{me}-{i}" + "x" * (i * 37 % 900)
    if i % 2:
        cache.add_scores({name: QualityRecord(value, value, value, value, i)})
    else:
        cache.add_ranges({name: [RangeLoss(0, 3, 30, value, 0.5), RangeLoss(3, 9, 60, value, 0.5)]})
"""


def test_processes_that_append_at_once_do_not_damage_the_cache(tmp_path, caplog):
    file = tmp_path / "quality.jsonl"
    command = [sys.executable, "-c", WRITER]
    writers = [
        subprocess.Popen([*command, str(i), str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for i in range(3)
    ]
    for writer in writers:
        writer.stdout.readline()
    for writer in writers:  # all start now
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 450
    cache = QualityCache(file)
    assert not caplog.records
    assert len(cache.ids()) == 450
    for me in range(3):
        for i in range(150):
            name = f"{me}-{i}" + "x" * (i * 37 % 900)
            value = me + i / 1000
            assert cache.scores[name].loss == value if i % 2 else cache.chain(name, 9)[1].loss_sum == value


def test_what_another_process_has_evaluated_is_not_evaluated_again(tmp_path):
    nets = archs(4)
    mine, other = (Counting() for _ in range(2))
    first = LivePerplexityObjective(mine, source="a", cache_dir=tmp_path)
    second = LivePerplexityObjective(other, source="a", cache_dir=tmp_path)
    first(nets[:3])
    np.testing.assert_array_equal(second(nets), first(nets))
    assert (mine.evaluated, other.evaluated) == (nets[:3], nets[3:])


def test_a_writer_goes_on_after_a_line_that_another_one_left_unfinished(tmp_path):
    file = tmp_path / "quality.jsonl"
    cache = QualityCache(file)
    cache.add_scores({"a": QualityRecord(1, 1, 1, 1, 1)})
    with file.open("ab") as stream:
        stream.write(b'{"architecture": "b", "sco')  # and was killed
    cache.add_scores({"c": QualityRecord(3, 3, 3, 3, 3)})
    assert QualityCache(file).ids() == {"a", "c"}
