"""Zero-shot accuracy on multiple-choice questions, straight from a litgpt GPT: no export, any architecture.

Scores are those of lm-eval: acc takes the choice of the highest log-likelihood, acc_norm that of the highest one for
each character; standard errors are of the mean over questions. `lm_eval_scores` runs lm-eval itself on the same files.

Shapes: B requests of a batch, T tokens, V padded vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import litgpt
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pruning.collection import autocast, eval_mode
from pruning.zero_shot_tasks import ChoiceItem, read_items
from supernet.artifacts import write_json
from supernet.evaluate import PRECISIONS
from supernet.text import Tokenizer

DEFAULT_TASKS = ("arc_easy", "piqa", "hellaswag")


@dataclass(frozen=True, slots=True)
class ChoiceScores:
    """Accuracy on one set of questions.

    Attributes:
        acc: share of questions whose right choice has the highest log-likelihood.
        acc_stderr: its standard error; NaN for one question.
        acc_norm: the same with log-likelihoods divided by the choices' characters.
        acc_norm_stderr: its standard error.
        n_items: questions.
    """

    acc: float
    acc_stderr: float
    acc_norm: float
    acc_norm_stderr: float
    n_items: int


Request = tuple[list[int], list[int]]  # ids of the context (at least one) and of the continuation


def zero_shot(
    gpt: litgpt.GPT,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    tasks: Sequence[str] = DEFAULT_TASKS,
    limit: int | None = None,
    max_tokens: int = 2048,
    precision: str = "32",
    progress: bool = False,
) -> dict[str, ChoiceScores]:
    """Score a network on tasks whose files lie in a folder.

    Args:
        gpt: the network, where it is.
        tokenizer: its own.
        folder: of the files, e.g. piqa_val.jsonl.gz (see `zero_shot_tasks.TASKS`).
        tasks: names in `TASKS`.
        limit: questions of each task, the first ones; None is all.
        max_tokens: of one forward.
        precision: "32", or "bf16" for autocast to bfloat16.
        progress: show progress bars.

    Raises:
        KeyError: an unknown task.
        FileNotFoundError: a file is missing.
        ValueError: a damaged file, an unknown precision, or a tokenizer that is not the network's.
    """
    questions = {task: read_items(task, folder, limit=limit) for task in tasks}
    return {
        task: score_choices(gpt, tokenizer, items, max_tokens=max_tokens, precision=precision, progress=progress)
        for task, items in questions.items()
    }


def score_choices(
    gpt: litgpt.GPT,
    tokenizer: Tokenizer,
    items: Sequence[ChoiceItem],
    *,
    max_tokens: int = 2048,
    precision: str = "32",
    progress: bool = False,
) -> ChoiceScores:
    """Score a network on questions; see `zero_shot`."""
    requests = [encode_pair(tokenizer, item.context, f" {choice}") for item in items for choice in item.choices]
    found = log_likelihoods(gpt, requests, max_tokens=max_tokens, precision=precision, progress=progress)
    right, right_norm, start = [], [], 0
    for item in items:
        own = np.array(found[start : start + len(item.choices)])
        start += len(item.choices)
        right.append(float(own.argmax() == item.gold))
        right_norm.append(float((own / [len(choice) for choice in item.choices]).argmax() == item.gold))
    return ChoiceScores(*_mean(right), *_mean(right_norm), n_items=len(items))


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> Request:
    """Return the ids of a context and of what follows it, as lm-eval cuts them.

    White space at the context's end belongs to the continuation; both are encoded as one text and cut where the
    context's own ids end; BOS comes first where the tokenizer puts one by default.
    """
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    first = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    whole = first + tokenizer.encode(stripped + continuation).tolist()
    length = len(first) + len(tokenizer.encode(stripped))
    if not stripped and not first:
        raise ValueError("a question with an empty context needs a tokenizer with a BOS token")
    return whole[:length], whole[length:]


def log_likelihoods(
    gpt: litgpt.GPT,
    requests: Sequence[Request],
    *,
    max_tokens: int = 2048,
    precision: str = "32",
    progress: bool = False,
) -> list[float]:
    """Return the log-likelihood (nats) of every continuation after its context.

    A request that is longer than the network's context loses its start.

    Raises:
        ValueError: an unknown precision, ids outside the vocabulary, or an empty context.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision = {precision!r}; allowed: {', '.join(PRECISIONS)}")
    inputs = [_input(request, gpt.max_seq_length) for request in requests]
    largest = max((max(ids, default=0) for pair in requests for ids in pair), default=0)
    if largest >= gpt.config.padded_vocab_size:
        raise ValueError(
            f"the id {largest} is not in a vocabulary of {gpt.config.padded_vocab_size}: another tokenizer"
        )
    place = next(gpt.parameters()).device
    found = [0.0] * len(requests)
    bar = tqdm(total=len(requests), unit="choice", desc="zero-shot", disable=not progress)
    with bar, eval_mode(gpt), torch.inference_mode(), autocast(place, precision):
        for rows in _batches([len(ids) for ids in inputs], max_tokens):
            padded = torch.nn.utils.rnn.pad_sequence([inputs[row] for row in rows], batch_first=True)  # (B, T)
            logits = gpt(padded.to(place))  # (B, T, V)
            for own, row in zip(logits, rows, strict=True):
                found[row] = _log_likelihood(own[: len(inputs[row])], requests[row][1])
            bar.update(len(rows))
    return found


def _input(request: Request, context_length: int) -> Tensor:
    context, continuation = request
    if not context:
        raise ValueError("a request with an empty context: give at least one id before the continuation")
    return torch.tensor((context + continuation)[-(context_length + 1) :][:-1])


def _log_likelihood(logits: Tensor, continuation: list[int]) -> float:
    """Return the log-likelihood of a continuation, the last of whose ids the last of the (T, V) logits predict."""
    kept = continuation[-len(logits) :]
    if not kept:
        return 0.0
    aims = torch.tensor(kept, device=logits.device)
    chances = logits[-len(kept) :].float().log_softmax(-1)
    return float(chances.gather(1, aims[:, None]).sum())


def _batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Return rows in batches of at most `max_tokens` padded tokens (at least one row), the longest first."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    batches: list[list[int]] = []
    for row in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error."""
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(np.mean(values)), error


def scores_record(scores: Mapping[str, ChoiceScores], *, limit: int | None) -> dict[str, object]:
    """Return scores as plain JSON types; a standard error that is not known is null."""
    results = {
        task: {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in own.items()}
        for task, own in ((task, asdict(score)) for task, score in scores.items())
    }
    return {"results": results, "limit": limit}


def write_zero_shot(path: str | Path, networks: Mapping[str, Mapping[str, ChoiceScores]], *, limit: int | None) -> Path:
    """Write the scores of several networks (e.g. before and after pruning) as one JSON file, atomically."""
    return write_json(path, {name: scores_record(scores, limit=limit) for name, scores in networks.items()})
