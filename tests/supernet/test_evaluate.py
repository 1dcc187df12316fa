"""Evaluation: numbers, equality over ways to compute them, bad input, tables, the command."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import litgpt
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

import supernet.evaluate as module
from supernet.architecture import Architecture
from supernet.checkpoint import load_supernet, save_supernet
from supernet.corpus import find_documents
from supernet.evaluate import Evaluation, evaluate, evaluation_table, summary_line, write_evaluations
from supernet.extract import extract
from supernet.model import Supernet
from supernet.space import SearchSpace
from supernet.text import ByteTokenizer, HFTokenizer
from supernet.tokens import TokenBlocks, TokenSlice, tokenise

SHARED = Path(__file__).parents[3] / "shared"
SPACE = SearchSpace(
    name="t", n_embd=(16, 32), n_layer=(1, 3), n_head=(1, 2, 4), mlp_ratio=(1, 2),
    config={"head_size": 8, "vocab_size": 256, "padded_vocab_size": 256, "block_size": 16},
)  # fmt: skip


@pytest.fixture(scope="module")
def supernet():
    torch.manual_seed(0)
    return Supernet(litgpt.Config(**SPACE.config))


@pytest.fixture(scope="module")
def archs():
    return SPACE.sample_unique(4, np.random.default_rng(0))


@pytest.fixture(scope="module")
def blocks():
    return torch.randint(256, (7, 13), generator=torch.Generator().manual_seed(0))


def test_loss_is_the_cross_entropy_of_the_extracted_model(supernet, archs, blocks):
    for arch, result in zip(archs, evaluate(supernet, archs, blocks, batch_size=3), strict=True):
        with torch.no_grad():
            logits = extract(supernet, arch)(blocks[:, :-1])
        losses = F.cross_entropy(logits.transpose(1, 2), blocks[:, 1:], reduction="none")
        assert result.loss == pytest.approx(float(losses.mean()), rel=1e-6)
        per_block = losses.double().mean(dim=1).numpy()
        assert result.stderr == pytest.approx(np.std(per_block, ddof=1) / np.sqrt(7), rel=1e-5)
        assert result.perplexity == pytest.approx(math.exp(result.loss))
        assert (result.architecture, result.n_tokens, result.n_blocks) == (arch, 84, 7)


def test_evaluating_in_place_and_extracted_gives_equal_results(supernet, archs, blocks):
    in_place = evaluate(supernet, archs, blocks, batch_size=3)
    alone = [evaluate(extract(supernet, arch), [None], blocks, batch_size=3)[0] for arch in archs]
    assert [e.loss for e in in_place] == [e.loss for e in alone]
    assert [e.stderr for e in in_place] == [e.stderr for e in alone]


def test_none_is_the_whole_model(supernet, blocks):
    whole, largest = evaluate(supernet, [None, SPACE.largest()], blocks)
    assert whole.loss == pytest.approx(largest.loss, rel=1e-6) and whole.architecture is None


def test_results_do_not_depend_on_batches_chunks_and_groups(supernet, archs, blocks, monkeypatch):
    whole = evaluate(supernet, archs, blocks, batch_size=7)
    monkeypatch.setattr(module, "_MAX_LOGITS", 2 * 12 * 256)
    monkeypatch.setattr(module, "_MAX_CHUNK", 5 * 256)
    monkeypatch.setattr(module, "_GROUP", 3)
    pieces = evaluate(supernet, archs, blocks, batch_size=7)
    assert [e.loss for e in pieces] == pytest.approx([e.loss for e in whole], rel=1e-6)


def test_a_forward_takes_no_more_blocks_than_its_logits_allow(blocks, monkeypatch):
    sizes = []
    model = litgpt.GPT(litgpt.Config(**SPACE.config))
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    monkeypatch.setattr(module, "_MAX_LOGITS", 2 * 12 * 256)
    evaluate(model, [None], blocks, batch_size=7)
    assert sizes == [2, 2, 2, 1]


def test_bits_per_byte_count_the_bytes_behind_the_targets(supernet):
    sizes = np.arange(1, 41, dtype=np.uint16)
    tokens = TokenBlocks(TokenSlice(np.arange(40, dtype=np.uint16), sizes), 12)
    (result,) = evaluate(supernet, [None], tokens)
    n_bytes = sum(range(2, 38))  # 3 blocks of 12 targets; the first token is none
    assert result.bits_per_byte == pytest.approx(result.loss * 36 / math.log(2) / n_bytes)
    (given,) = evaluate(supernet, [None], tokens.rows(range(3)), n_bytes=n_bytes)
    assert given.bits_per_byte == pytest.approx(result.bits_per_byte)
    assert math.isnan(evaluate(supernet, [None], tokens.rows(range(3)))[0].bits_per_byte)


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(supernet, blocks):
    uniform = litgpt.GPT(supernet.config)
    torch.nn.init.zeros_(uniform.lm_head.weight)
    (result,) = evaluate(uniform, [None], blocks, n_bytes=84)
    assert result.perplexity == pytest.approx(256, rel=1e-5)
    assert result.bits_per_byte == pytest.approx(8, rel=1e-6) and result.stderr < 1e-6


def test_bf16_is_near_fp32_and_not_the_same(supernet, archs, blocks):
    exact, rough = (evaluate(supernet, archs, blocks, precision=p) for p in ("32", "bf16"))
    for one, other in zip(exact, rough, strict=True):
        assert one.loss != other.loss and one.loss == pytest.approx(other.loss, rel=0.01)


def test_the_model_is_left_as_it_was(supernet, archs, blocks):
    before = {k: v.clone() for k, v in supernet.state_dict().items()}
    supernet.train()
    evaluate(supernet, archs, blocks)
    assert supernet.training and all(p.grad is None for p in supernet.parameters())
    assert all(torch.equal(v, before[k]) for k, v in supernet.state_dict().items())


def test_bad_input_is_refused_by_name(supernet, blocks):
    with pytest.raises(ValueError, match="no block to evaluate on"):
        evaluate(supernet, [None], blocks[:0])
    with pytest.raises(ValueError, match="seq_len = 20 is longer than the model's block_size = 16"):
        evaluate(supernet, [None], torch.zeros(1, 21, dtype=torch.long))
    with pytest.raises(ValueError, match="300 ids, the model only 256"):
        evaluate(supernet, [None], torch.full((1, 5), 299))
    with pytest.raises(ValueError, match="precision = 'fp8': choose from 32, bf16"):
        evaluate(supernet, [None], blocks, precision="fp8")
    with pytest.raises(ValueError, match="n_embd"):
        evaluate(supernet, [Architecture.uniform(n_embd=48, n_layer=1, n_head=1, intermediate_size=16)], blocks)


def test_a_loss_that_is_not_finite_is_reported_with_the_network(supernet, blocks):
    broken = litgpt.GPT(supernet.config)
    torch.nn.init.constant_(broken.lm_head.weight, math.nan)
    with pytest.warns(UserWarning, match="loss of the model is nan: not finite in 7 of 7 blocks"):
        (result,) = evaluate(broken, [None], blocks)
    assert math.isnan(result.loss) and math.isnan(result.perplexity)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_gpu_gives_the_losses_of_the_cpu(archs, blocks, precision):
    model = Supernet(litgpt.Config(**SPACE.config))
    on_cpu = evaluate(model, [None, *archs], blocks)
    on_gpu = evaluate(model, [None, *archs], blocks, device="cuda", precision=precision)
    assert next(model.parameters()).is_cuda
    tolerance = 1e-4 if precision == "32" else 1e-2
    assert [e.loss for e in on_gpu] == pytest.approx([e.loss for e in on_cpu], rel=tolerance)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json"])
def test_a_written_table_holds_every_number(tmp_path, archs, suffix):
    rows = [Evaluation(a, 1.5 + i, math.exp(1.5 + i), 2.25, 0.125, 100, 5) for i, a in enumerate(archs)]
    path = write_evaluations(tmp_path / f"e{suffix}", rows)
    read = {".parquet": pd.read_parquet, ".csv": pd.read_csv, ".json": pd.read_json}[suffix](path)
    pd.testing.assert_frame_equal(read, evaluation_table(rows), check_dtype=False)
    assert [Architecture.from_id(a) for a in read["architecture"]] == archs
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match=r"must end in \.parquet, \.csv, \.json"):
        write_evaluations(tmp_path / "e.xlsx", rows)
    assert archs[0].id in summary_line(rows) and "2.2500 bits a byte" in summary_line(rows)


def paretolm(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from supernet.dispatch import main; sys.exit(main())"
    environment = os.environ | {"PARETOLM_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_the_command_writes_a_table_that_python_gives_too(supernet, archs, tmp_path):
    save_supernet(tmp_path / "net", supernet, space=SPACE, tokenizer=ByteTokenizer())
    (tmp_path / "archs.json").write_text(json.dumps([a.id for a in archs]))
    (tmp_path / "text.txt").write_text("some text of our own\n" * 40)
    done = paretolm(
        "evaluate", "supernet=net", "archs='archs.json,largest,2'", "data=text", "data.source=text.txt",
        "data.seq_len=12", "split=all", "n_blocks=20", "run_dir=out", folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(tmp_path / "out" / "evaluations.parquet")
    assert list(table.architecture[:5]) == [a.id for a in [*archs, SPACE.largest()]] and len(table) == 7
    corpus = tokenise(find_documents(tmp_path / "text.txt"), ByteTokenizer(), tmp_path / "cache2")
    expected = evaluate(load_supernet(tmp_path / "net").supernet, archs, TokenBlocks(corpus.tokens, 12).first(20))
    assert list(table.loss[:4]) == pytest.approx([e.loss for e in expected], rel=1e-6)
    assert list(table.bits_per_byte[:4]) == pytest.approx([e.bits_per_byte for e in expected], rel=1e-6)
    assert (tmp_path / "out" / "config.yaml").is_file()
    assert len(done.stdout.strip().splitlines()) == 1 and "7 network(s) on 240 tokens" in done.stdout


@pytest.mark.slow
def test_the_command_says_in_one_line_what_is_wrong(supernet, tmp_path):
    save_supernet(tmp_path / "net", supernet, space=SPACE)
    without_tokenizer = paretolm("evaluate", "supernet=net", folder=tmp_path)
    assert without_tokenizer.returncode == 1
    assert "net has no tokenizer: give data.tokenizer=FOLDER" in without_tokenizer.stderr
    assert "Traceback" not in without_tokenizer.stderr


@pytest.mark.skipif(not (SHARED / "models").is_dir(), reason="needs ../shared/models and ../shared/text")
def test_stories260k_predicts_its_own_story_far_better_than_wikipedia(tmp_path):
    """Its loss on TinyStories is 1.27 to 1.30 nats (its README); a story that it tells itself is likelier than that."""
    loaded = load_supernet(SHARED / "models" / "stories260K")
    tokenizer = HFTokenizer(SHARED / "models" / "stories260K")
    story = (
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
        "One day, she saw a big, red ball. She wanted to play with it, but it was too high."
    )
    ids = torch.as_tensor([[tokenizer.bos_id, *tokenizer.encode(story)]])
    (result,) = evaluate(loaded.supernet, [None], ids, n_bytes=len(story))
    assert 0.3 < result.loss < 1.3
    corpus = tokenise(
        find_documents(SHARED / "text" / "wikitext-2" / "wiki.valid.raw.gz", max_bytes=20_000), tokenizer, tmp_path
    )
    (wiki,) = evaluate(loaded.supernet, [None], TokenBlocks(corpus.tokens, 256), batch_size=4)
    assert wiki.loss > 2 * result.loss and wiki.bits_per_byte > 2 * result.bits_per_byte
