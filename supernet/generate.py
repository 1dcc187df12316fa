"""Text sampled from a dense litgpt model with its KV cache.

Shapes: T prompt tokens, N new tokens, V padded vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from litgpt import GPT
from torch import Tensor

from supernet.text import Tokenizer


@torch.inference_mode()
def generate(
    gpt: GPT,
    prompt: Tensor | np.ndarray | Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
    eos_id: int | None = None,
    vocab_size: int | None = None,
) -> Tensor:
    """Continue a prompt.

    Args:
        gpt: a litgpt GPT (extract a sub-network first). Its KV cache is set for the call and cleared afterwards.
        prompt: (T,) token ids, at least one.
        max_new_tokens: N at the most.
        temperature: 0 takes the most likely token each time.
        top_k: sample among the k most likely tokens.
        generator: source of randomness, on the model's device.
        eos_id: stop after this token.
        vocab_size: never give ids from here on (those that only pad the model's vocabulary).

    Returns:
        (T + up to N,) LongTensor on the model's device, the prompt included.

    Raises:
        ValueError: an empty prompt, or prompt and new tokens do not fit the model's context.
    """
    device = next(gpt.parameters()).device
    ids = torch.as_tensor(prompt, dtype=torch.long, device=device).flatten()
    _check(gpt, len(ids), max_new_tokens, temperature, top_k)
    tokens = [ids]
    with _decoding(gpt, len(ids) + max_new_tokens):
        position, new = torch.arange(len(ids), device=device), ids
        if gpt.config.attention_logit_softcapping is not None:
            position, new = _prefill_one_by_one(gpt, ids)
        for _ in range(max_new_tokens):
            end = int(position[-1]) + 1
            logits = gpt(new[None], input_pos=position, input_pos_maxp1=end)[0, -1]  # (V,)
            new = _pick(logits.float()[:vocab_size], temperature, top_k, generator)  # (1,)
            tokens.append(new)
            if eos_id is not None and int(new) == eos_id:
                break
            position = position[-1:] + 1
    return torch.cat(tokens)


def sample_text(
    gpt: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int | None = 50,
    seed: int = 0,
) -> str:
    """Return `prompt` and a continuation as text; the same seed gives the same text.

    Raises:
        ValueError: an empty prompt with a tokenizer that has no BOS, or too many tokens for the model.
    """
    ids = tokenizer.encode(prompt)
    if tokenizer.bos_id is not None:
        ids = np.concatenate([[tokenizer.bos_id], ids])
    generator = torch.Generator(device=next(gpt.parameters()).device).manual_seed(seed)
    out = generate(
        gpt, ids, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, generator=generator,
        eos_id=tokenizer.eos_id, vocab_size=tokenizer.vocab_size,
    )  # fmt: skip
    return tokenizer.decode(out.cpu().numpy())


def _prefill_one_by_one(gpt: GPT, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Put all but the last prompt token into the cache; returns the last one's position and id, (1,) each.

    litgpt 0.5.13 adds a boolean mask to soft-capped scores, so a prefill of several tokens there sees the future.
    """
    position = torch.arange(len(ids), device=ids.device)
    for i in range(len(ids) - 1):
        gpt(ids[None, i : i + 1], input_pos=position[i : i + 1], input_pos_maxp1=i + 1)
    return position[-1:], ids[-1:]


def _check(gpt: GPT, n_prompt: int, max_new_tokens: int, temperature: float, top_k: int | None) -> None:
    if not n_prompt:
        raise ValueError("the prompt is empty: give at least one token")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens = {max_new_tokens}: must be at least 1")
    if temperature < 0:
        raise ValueError(f"temperature = {temperature}: give 0 (most likely token) or more")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k = {top_k}: must be at least 1, or None for all tokens")
    if n_prompt + max_new_tokens > gpt.max_seq_length:
        raise ValueError(
            f"{n_prompt} prompt tokens and {max_new_tokens} new ones exceed the model's context of "
            f"{gpt.max_seq_length}: at most {max(gpt.max_seq_length - n_prompt, 0)} new tokens fit"
        )


@contextmanager
def _decoding(gpt: GPT, n_tokens: int) -> Iterator[None]:
    """Give the model a KV cache for `n_tokens` and eval mode; take both back afterwards."""
    weight, training = next(gpt.parameters()), gpt.training
    gpt.eval()
    gpt.set_kv_cache(batch_size=1, max_seq_length=n_tokens, device=weight.device, dtype=weight.dtype)
    try:
        yield
    finally:
        gpt.clear_kv_cache()
        gpt.train(training)


def _pick(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    """Return one token id, (1,), from (V,) logits."""
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    if top_k is not None and top_k < len(logits):
        best = logits.topk(top_k)
        logits = torch.full_like(logits, -torch.inf).scatter(0, best.indices, best.values)
    return torch.multinomial((logits / temperature).softmax(dim=-1), num_samples=1, generator=generator)
