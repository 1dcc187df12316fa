"""What the dense and the pruned network write after the same beginnings: the most likely token each time, float32."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import litgpt
import numpy as np
import torch
from tqdm import tqdm

from pruning.report_data import TextSample
from supernet.generate import generate
from supernet.text import Tokenizer

PROMPTS = (
    "The capital of France is",
    "The most important thing about a bridge is",
    "In the year 1879, the scientist",
)


def text_samples(
    dense: litgpt.GPT,
    pruned: litgpt.GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[str] = PROMPTS,
    *,
    max_new_tokens: int = 48,
    progress: bool = False,
) -> list[TextSample]:
    """Return what both networks write after each beginning; chat templates are not applied.

    Both run with their KV cache where they are; networks of another dtype are copied to float32. A text ends early at
    the tokenizer's end token.

    Raises:
        ValueError: an empty beginning, or too many tokens for the model's context.
    """
    texts = {}
    bar = tqdm(total=2 * len(prompts), desc="samples", unit="text", disable=not progress)
    with bar:
        for name, gpt in (("dense", dense), ("pruned", pruned)):
            whole = _in_float32(gpt)
            for prompt in prompts:
                texts[name, prompt] = _continuation(whole, tokenizer, prompt, max_new_tokens)
                bar.update()
            del whole
    return [TextSample(prompt, texts["dense", prompt], texts["pruned", prompt]) for prompt in prompts]


def _in_float32(gpt: litgpt.GPT) -> litgpt.GPT:
    if all(parameter.dtype == torch.float32 for parameter in gpt.parameters()):
        return gpt
    whole = copy.deepcopy(gpt).float()
    whole.cos, whole.sin = whole.rope_cache(device=next(whole.parameters()).device)  # the old ones are rounded
    return whole


def _continuation(gpt: litgpt.GPT, tokenizer: Tokenizer, prompt: str, max_new_tokens: int) -> str:
    ids = tokenizer.encode(prompt)
    if tokenizer.bos_id is not None:
        ids = np.concatenate([[tokenizer.bos_id], ids])
    out = generate(
        gpt, ids, max_new_tokens=max_new_tokens, temperature=0, eos_id=tokenizer.eos_id, vocab_size=tokenizer.vocab_size
    )
    whole, head = tokenizer.decode(out.cpu().numpy()), tokenizer.decode(ids)  # the new ids alone may lose a space
    return whole.removeprefix(head)
