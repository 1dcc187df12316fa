"""Generation with a KV cache against plain forwards."""

from pathlib import Path

import litgpt
import numpy as np
import pytest
import torch

from supernet.checkpoint import load_supernet
from supernet.extract import extract
from supernet.generate import generate, sample_text
from supernet.model import Supernet
from supernet.space import SearchSpace
from supernet.text import ByteTokenizer, HFTokenizer

STORIES = Path(__file__).parents[3] / "shared" / "models" / "stories260K"
SPACE = SearchSpace(
    name="t", n_embd=(16, 32), n_layer=(2, 3), n_head=(2, 4), n_query_groups=(1, 2), intermediate_size=(24, 48),
    config={
        "head_size": 8, "vocab_size": 250, "padded_vocab_size": 256, "block_size": 40, "mlp_class_name": "LLaMAMLP",
        "norm_class_name": "RMSNorm", "bias": False,
    },
)  # fmt: skip


@pytest.fixture(scope="module")
def gpt():
    """An extracted sub-network with layers that differ."""
    torch.manual_seed(0)
    supernet = Supernet(litgpt.Config(**SPACE.config))
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.mul_(3)  # far from uniform predictions
    rng = np.random.default_rng(0)
    arch = next(a for a in iter(lambda: SPACE.sample(rng), None) if not a.is_uniform)
    return extract(supernet, arch)


def without_cache(gpt, prompt, steps, pick):
    ids = torch.tensor([prompt])
    with torch.no_grad():
        for _ in range(steps):
            ids = torch.cat([ids, pick(gpt(ids)[0, -1])[None, None]], dim=1)
    return ids[0].tolist()


def test_greedy_tokens_are_those_of_full_forwards(gpt):
    out = generate(gpt, [5, 6, 7], max_new_tokens=37, temperature=0)
    assert out.tolist() == without_cache(gpt, [5, 6, 7], 37, lambda logits: logits.argmax())


def test_greedy_tokens_are_those_of_full_forwards_with_softcapped_attention():
    torch.manual_seed(1)
    capped = litgpt.GPT(litgpt.Config(**{**SPACE.config, "attention_logit_softcapping": 2.0}))
    with torch.no_grad():
        for parameter in capped.parameters():
            parameter.mul_(3)
    prompt = [5, 6, 7, 200, 3, 90]
    out = generate(capped, prompt, max_new_tokens=30, temperature=0)
    assert out.tolist() == without_cache(capped, prompt, 30, lambda logits: logits.argmax())


def test_sampled_tokens_are_those_of_full_forwards_with_the_same_generator(gpt):
    out = generate(gpt, [5], max_new_tokens=30, temperature=0.7, generator=torch.Generator().manual_seed(3))
    reference = torch.Generator().manual_seed(3)

    def pick(logits):
        return torch.multinomial((logits / 0.7).softmax(-1), 1, generator=reference)[0]

    assert out.tolist() == without_cache(gpt, [5], 30, pick)
    assert len(set(out.tolist())) > 3


def test_top_k_takes_only_the_most_likely_tokens(gpt):
    greedy = generate(gpt, [1, 2], max_new_tokens=20, temperature=0)
    assert torch.equal(generate(gpt, [1, 2], max_new_tokens=20, top_k=1), greedy)
    with torch.no_grad():
        best = set(gpt(torch.tensor([[1, 2]]))[0, -1].topk(4).indices.tolist())
    drawn = {
        int(generate(gpt, [1, 2], max_new_tokens=1, top_k=4, temperature=5, generator=g)[-1])
        for g in (torch.Generator().manual_seed(s) for s in range(60))
    }
    assert drawn == best


def test_generation_ends_at_eos_and_keeps_to_the_vocabulary(gpt):
    free = generate(gpt, [1], max_new_tokens=20, temperature=0).tolist()
    eos = free[5]
    stopped = generate(gpt, [1], max_new_tokens=20, temperature=0, eos_id=eos).tolist()
    assert stopped == free[: free.index(eos, 1) + 1]
    hot = generate(gpt, [1], max_new_tokens=39, temperature=50.0, vocab_size=9)
    assert hot.max() < 9


def test_the_model_is_left_without_cache_and_in_its_mode(gpt):
    gpt.train()
    generate(gpt, [1], max_new_tokens=3)
    assert gpt.training and gpt.mask_cache is None
    assert all(block.attn.kv_cache is None for block in gpt.transformer.h)
    assert gpt(torch.ones(2, 40, dtype=torch.long)).shape == (2, 40, 256)
    gpt.eval()


def test_bad_requests_are_refused(gpt):
    with pytest.raises(ValueError, match="prompt is empty"):
        generate(gpt, [], max_new_tokens=3)
    with pytest.raises(ValueError, match=r"context of 40: at most 38 new tokens fit"):
        generate(gpt, [1, 2], max_new_tokens=39)
    for wrong in ({"max_new_tokens": 0}, {"temperature": -1.0}, {"top_k": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} = "):
            generate(gpt, [1], **{"max_new_tokens": 3} | wrong)


def test_sampled_text_starts_with_the_prompt_and_follows_the_seed(gpt):
    texts = [sample_text(gpt, ByteTokenizer(), "ab", max_new_tokens=30, temperature=1.0, seed=s) for s in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    assert all(t.startswith("ab") for t in texts)


@pytest.mark.skipif(not STORIES.is_dir(), reason="needs ../shared/models/stories260K")
def test_stories260k_tells_its_known_story():
    """The greedy story in llama2.c's documentation (doc/stories260K.md)."""
    supernet = load_supernet(STORIES).supernet
    text = sample_text(supernet, HFTokenizer(STORIES), "", max_new_tokens=80, temperature=0)
    assert text.strip().startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
        "One day, she saw a big, red ball. She wanted to play with it, but it was too high."
    )
