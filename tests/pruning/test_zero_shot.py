"""Zero-shot accuracy: questions, prompts, log-likelihoods; equal to lm-eval's where that is installed."""

import gzip
import importlib.util
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from pruning_supernets import STORIES, calm_supernet

from pruning.zero_shot import encode_pair, log_likelihoods, score_choices, scores_record, write_zero_shot, zero_shot
from pruning.zero_shot_tasks import TASKS, ChoiceItem, read_items, task_named
from supernet.text import ByteTokenizer

EVAL = STORIES.parents[1] / "eval"
ROWS = {
    "piqa": {"goal": "Open a jar.", "sol1": "Turn the lid.", "sol2": "Sing to the lid loudly.", "label": 1},
    "arc_easy": {
        "question": "What is ice?",
        "choices": {"text": ["Water", "Iron", "Oil"], "label": ["A", "B", "C"]},
        "answerKey": "B",
    },
    "hellaswag": {"query": "Cooking: A man", "choices": ["eats.", "flies off."], "gold": 0},
    "openbookqa": {
        "question_stem": "The sun is",
        "choices": {"text": ["hot", "cold"], "label": ["A", "B"]},
        "answerKey": "A",
    },
    "sciq": {
        "support": " Darwin wrote.", "question": "Who?", "distractor1": "a", "distractor2": "b", "distractor3": "c",
        "correct_answer": "Darwin",
    },
}  # fmt: skip
ROWS["arc_challenge"] = ROWS["arc_easy"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    for name, row in ROWS.items():
        with gzip.open(folder / f"{TASKS[name].file}.jsonl.gz", "wt") as file:
            file.write("\n".join(json.dumps(row) for _ in range(3)) + "\n")
    return folder


@pytest.fixture(scope="module")
def gpt():
    return calm_supernet("llama-gqa", padded_vocab_size=256, vocab_size=256, block_size=64).eval()


class WithBos(ByteTokenizer):
    bos_id = 1


@pytest.mark.parametrize(
    ("name", "item"),
    [
        ("piqa", ChoiceItem("Question: Open a jar.\nAnswer:", ("Turn the lid.", "Sing to the lid loudly."), 1)),
        ("arc_easy", ChoiceItem("Question: What is ice?\nAnswer:", ("Water", "Iron", "Oil"), 1)),
        ("hellaswag", ChoiceItem("Cooking: A man", ("eats.", "flies off."), 0)),
        ("openbookqa", ChoiceItem("The sun is", ("hot", "cold"), 0)),
        ("sciq", ChoiceItem("Darwin wrote.\nQuestion: Who?\nAnswer:", ("a", "b", "c", "Darwin"), 3)),
    ],
)
def test_prompts_are_those_of_the_tasks(name, item, folder):
    assert read_items(name, folder, limit=2) == [item, item]
    assert len(read_items(name, folder)) == 3


@pytest.mark.skipif(not EVAL.is_dir(), reason="the evaluation sets are absent")
@pytest.mark.parametrize("name", TASKS)
def test_every_row_of_the_real_files_is_read(name):
    items = read_items(name, EVAL, limit=None)
    assert len(items) >= 500
    assert all(0 <= item.gold < len(item.choices) and item.context.strip() for item in items)
    shares = np.bincount([item.gold for item in items]) / len(items)
    assert name == "sciq" or shares.max() < 0.6  # the right choice is not always the same


def naive(gpt, context, continuation):
    """Return the log-likelihood of a continuation, one forward for each token."""
    total = 0.0
    for i, token in enumerate(continuation):
        with torch.no_grad():
            logits = gpt(torch.tensor([context + continuation[:i]]))[0, -1]
        total += float(logits.log_softmax(-1)[token])
    return total


def test_log_likelihoods_equal_those_of_token_after_token(gpt):
    rng = np.random.default_rng(0)
    requests = [
        (rng.integers(0, 256, n).tolist(), rng.integers(0, 256, m).tolist())
        for n, m in [(3, 2), (9, 1), (1, 7), (5, 5)]
    ]
    expected = [naive(gpt, *request) for request in requests]
    for max_tokens in (1, 20, 1000):  # alone, in two batches, all at once
        assert log_likelihoods(gpt, requests, max_tokens=max_tokens) == pytest.approx(expected, abs=1e-4)


def test_a_context_that_is_too_long_loses_its_start(gpt):
    long, continuation = list(range(1, 100)), [7, 8]
    kept = long[-(gpt.max_seq_length + 1 - len(continuation)) :]
    assert log_likelihoods(gpt, [(long, continuation)]) == pytest.approx(log_likelihoods(gpt, [(kept, continuation)]))


def test_white_space_at_the_end_of_a_context_belongs_to_the_continuation():
    assert encode_pair(ByteTokenizer(), "ab ", "c") == ([97, 98], [32, 99])
    assert encode_pair(WithBos(), "ab", " c") == ([1, 97, 98], [32, 99])
    with pytest.raises(ValueError, match="empty context"):
        encode_pair(ByteTokenizer(), "", "c")


def test_acc_takes_the_sum_and_acc_norm_the_mean_over_characters(gpt):
    items = [
        ChoiceItem("abc", ("x", "a much longer answer"), 0),
        ChoiceItem("abc", ("x", "a much longer answer"), 1),
        ChoiceItem("the", ("qq", "e"), 1),
    ]
    sums = [
        [naive(gpt, *encode_pair(ByteTokenizer(), item.context, f" {choice}")) for choice in item.choices]
        for item in items
    ]
    acc = [float(np.argmax(own) == item.gold) for own, item in zip(sums, items, strict=True)]
    norm = [
        float(np.argmax([s / len(c) for s, c in zip(own, item.choices, strict=True)]) == item.gold)
        for own, item in zip(sums, items, strict=True)
    ]
    assert acc[:2] != norm[:2]  # the two disagree here, so the test tells them apart
    found = score_choices(gpt, ByteTokenizer(), items)
    assert (found.acc, found.acc_norm, found.n_items) == (np.mean(acc), np.mean(norm), 3)
    assert found.acc_stderr == pytest.approx(np.std(acc, ddof=1) / math.sqrt(3))
    assert found.acc_norm_stderr == pytest.approx(np.std(norm, ddof=1) / math.sqrt(3))


def test_scores_are_written_as_json_without_nan(gpt, folder, tmp_path):
    scores = zero_shot(gpt, ByteTokenizer(), folder, tasks=("piqa",), limit=1)
    assert scores["piqa"].n_items == 1 and math.isnan(scores["piqa"].acc_stderr)
    path = write_zero_shot(tmp_path / "scores.json", {"before": scores, "after": scores}, limit=1)
    stored = json.loads(path.read_text())
    assert stored["before"] == scores_record(scores, limit=1)
    assert stored["before"]["results"]["piqa"]["acc_stderr"] is None


def test_wrong_input_is_refused_with_what_to_do(gpt, folder, tmp_path):
    with pytest.raises(KeyError, match=r"near matches: \['piqa'"):
        task_named("piqqa")
    with pytest.raises(FileNotFoundError, match="piqa_val"):
        read_items("piqa", tmp_path)
    (tmp_path / "piqa_val.jsonl").write_text('{"goal": "x"}\n')
    with pytest.raises(ValueError, match=r"line 1 is no question of piqa"):
        read_items("piqa", tmp_path)
    (tmp_path / "piqa_val.jsonl").write_text("not json\n")
    with pytest.raises(ValueError, match="damaged"):
        read_items("piqa", tmp_path)
    with pytest.raises(ValueError, match="at least 1"):
        read_items("piqa", folder, limit=0)
    with pytest.raises(ValueError, match="vocabulary of 256"):
        log_likelihoods(gpt, [([1], [999])])
    with pytest.raises(ValueError, match="allowed: 32"):
        log_likelihoods(gpt, [([1], [2])], precision="16")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")
@pytest.mark.skipif(not (EVAL.is_dir() and STORIES.is_dir()), reason="the evaluation sets or stories260K are absent")
def test_lm_eval_gives_the_same_scores_on_litgpt_and_on_the_hugging_face_model():
    from lm_eval.models.huggingface import HFLM

    from pruning.lm_eval_model import evaluate_locally, lm_eval_scores
    from supernet.checkpoint import load_supernet

    loaded = load_supernet(STORIES)
    tasks = ("arc_easy", "piqa", "hellaswag", "openbookqa", "sciq")
    own = zero_shot(loaded.supernet, loaded.tokenizer, EVAL, tasks=tasks, limit=20)
    through_lm_eval = lm_eval_scores(loaded.supernet, loaded.tokenizer, EVAL, tasks=tasks, limit=20)
    reference = evaluate_locally(HFLM(pretrained=str(STORIES), device="cpu", batch_size=8), EVAL, tasks=tasks, limit=20)
    for task in tasks:
        for other in (through_lm_eval[task], reference[task]):
            assert asdict(own[task]) == pytest.approx(asdict(other))  # the last digit of standard errors may differ
