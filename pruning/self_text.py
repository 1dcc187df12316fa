"""Calibration text that a network writes itself, for when the user gives none.

It is in the languages and domains of the pretraining text, which nobody has at hand (Ji et al. 2024, arXiv 2410.17711,
found it to be as good as pretraining text for calibrating pruning).

Shapes: n blocks, T tokens, V padded vocabulary.
"""

from __future__ import annotations

import torch
from litgpt import GPT
from torch import Tensor
from tqdm import tqdm

from pruning.collection import eval_mode

_FIRST_TOKENS = 1000  # without a BOS, texts begin with one of the first so many ids after the special ones


@torch.inference_mode()
def write_blocks(
    gpt: GPT,
    *,
    n_blocks: int,
    seq_len: int,
    vocab_size: int,
    bos_id: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = 50,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = False,
) -> Tensor:
    """Return token blocks sampled from a network, (n_blocks, seq_len) int64 on the CPU.

    The first tokens are sampled from all of the distribution, so that the texts differ, the others from the `top_k`
    most likely ones. Ends of text are sampled like other tokens: what follows is another text.

    Args:
        gpt: a dense litgpt GPT; its KV cache is set for the call and cleared afterwards.
        n_blocks: how many.
        seq_len: T.
        vocab_size: ids from here on only pad the vocabulary.
        bos_id: begins every block; without one, blocks begin with random frequent ids.
        temperature: of the sampling.
        top_k: None samples from all tokens.
        seed: the same seed gives the same blocks.
        batch_size: blocks that are written together.
        progress: show a progress bar.

    Raises:
        ValueError: sizes below 1, or blocks longer than the network's context.
    """
    if n_blocks < 1 or seq_len < 2:
        raise ValueError(f"n_blocks = {n_blocks}, seq_len = {seq_len}: give at least 1 block of at least 2 tokens")
    if seq_len > gpt.max_seq_length:
        raise ValueError(f"seq_len = {seq_len}: the network's context has {gpt.max_seq_length} tokens")
    generator = torch.Generator(device="cpu").manual_seed(seed)
    bar = tqdm(total=n_blocks * seq_len, unit="token", desc="write calibration text", disable=not progress)
    parts = []
    with bar, eval_mode(gpt):
        for start in range(0, n_blocks, batch_size):
            n = min(batch_size, n_blocks - start)
            parts.append(_write(gpt, n, seq_len, vocab_size, bos_id, temperature, top_k, generator, bar))
    return torch.cat(parts)


def _write(
    gpt: GPT,
    n: int,
    seq_len: int,
    vocab_size: int,
    bos_id: int | None,
    temperature: float,
    top_k: int | None,
    generator: torch.Generator,
    bar: tqdm,
) -> Tensor:
    weight = gpt.lm_head.weight
    if bos_id is None:
        first = torch.randint(min(_FIRST_TOKENS, vocab_size), (n,), generator=generator)
    else:
        first = torch.full((n,), bos_id)
    gpt.set_kv_cache(batch_size=n, max_seq_length=seq_len, device=weight.device, dtype=weight.dtype)
    tokens = [first]
    try:
        for position in range(seq_len - 1):
            place = torch.tensor([position], device=weight.device)
            logits = gpt(tokens[-1][:, None].to(weight.device), input_pos=place, input_pos_maxp1=position + 1)
            open_start = position < 4
            tokens.append(_sample(logits[:, -1, :vocab_size], temperature, None if open_start else top_k, generator))
            bar.update(n)
    finally:
        gpt.clear_kv_cache()
    bar.update(n)
    return torch.stack(tokens, 1)


def _sample(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> Tensor:
    """Return one id for each row of (n, V) logits, (n,) on the CPU."""
    logits = logits.float().cpu() / temperature
    if top_k is not None and top_k < logits.shape[1]:
        best = logits.topk(top_k)
        choice = torch.multinomial(best.values.softmax(-1), 1, generator=generator)
        return best.indices.gather(1, choice)[:, 0]
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
