"""Whether generation with a KV cache computes what a forward of the whole text computes.

Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import litgpt
import torch
from torch import Tensor

from supernet.export import largest_difference

PROMPT, NEW = 12, 12  # tokens of the check
_WHAT = "generation with a KV cache and without one give logits that differ"


@torch.inference_mode()
def check_hf_cache(model: Any, *, block_size: int) -> float:
    """Return the largest difference of the logits of `generate()` with a cache from those without one.

    Args:
        model: a causal language model of transformers, in float32.
        block_size: tokens it takes at the most.

    Raises:
        ValueError: as in `supernet.export.largest_difference`.
    """
    prompt, new = _lengths(block_size)
    idx = _prompt(model.config.vocab_size, prompt)
    settings: dict[str, Any] = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "use_cache": True}

    def logits(model: Any) -> tuple[Tensor, Tensor]:
        done = model.generate(
            idx, attention_mask=torch.ones_like(idx), pad_token_id=0, output_logits=True, return_dict_in_generate=True,
            **settings,
        )  # fmt: skip
        return torch.cat(done.logits), model(done.sequences, use_cache=False).logits[0, prompt - 1 : -1]  # (new, V)

    return largest_difference(logits, model, what=_WHAT)


@torch.inference_mode()
def check_litgpt_cache(gpt: litgpt.GPT) -> float:
    """Return the largest difference of the logits of token after token with a cache from those of all at once.

    Args:
        gpt: in float32.

    Raises:
        ValueError: as in `check_hf_cache`.
    """
    n_tokens = sum(_lengths(gpt.max_seq_length))
    idx = _prompt(gpt.config.padded_vocab_size or 0, n_tokens)

    def logits(gpt: Any) -> tuple[Tensor, Tensor]:
        whole = gpt(idx)[0]  # (T, V)
        gpt.set_kv_cache(batch_size=1, max_seq_length=n_tokens, dtype=gpt.lm_head.weight.dtype)
        try:
            steps = [
                gpt(idx[:, i : i + 1], input_pos=torch.tensor([i]), input_pos_maxp1=i + 1)[0] for i in range(n_tokens)
            ]
        finally:
            gpt.clear_kv_cache()
        return torch.cat(steps), whole

    return largest_difference(logits, gpt, what=_WHAT)


def _lengths(block_size: int) -> tuple[int, int]:
    return min(PROMPT, block_size // 2), min(NEW, block_size // 2)


def _prompt(vocab_size: int, length: int) -> Tensor:
    return torch.randint(vocab_size, (1, length), generator=torch.Generator().manual_seed(1))
