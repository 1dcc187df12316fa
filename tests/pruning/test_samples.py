import pytest
import torch
from pruning_supernets import STORIES

from pruning.samples import text_samples
from supernet.architecture import Architecture
from supernet.checkpoint import load_supernet
from supernet.extract import extract


@pytest.mark.skipif(not STORIES.is_dir(), reason="stories260K is not there")
def test_samples_are_the_most_likely_tokens_in_float32_without_the_beginning():
    loaded = load_supernet(STORIES)
    supernet, tokenizer = loaded.supernet.eval(), loaded.tokenizer
    arch = Architecture.uniform(n_embd=64, n_layer=5, n_head=8, n_query_groups=4, intermediate_size=120, bias=False)
    pruned = extract(supernet, arch)
    prompt = "Once upon a time"
    (sample,) = text_samples(supernet, pruned, tokenizer, [prompt], max_new_tokens=12)
    for gpt, text in ((supernet, sample.dense), (pruned, sample.pruned)):
        ids = torch.tensor(
            [[tokenizer.bos_id, *tokenizer.encode(prompt)]] if tokenizer.bos_id else [tokenizer.encode(prompt)]
        )
        with torch.no_grad():
            for _ in range(12):
                ids = torch.cat([ids, gpt(ids)[:, -1:, : tokenizer.vocab_size].argmax(-1)], 1)
        assert prompt + text == tokenizer.decode(ids[0].numpy())
    assert sample.dense.startswith(", there was")
    half = extract(supernet, arch).to(torch.bfloat16)
    back = extract(supernet, arch)
    back.load_state_dict(half.state_dict())
    rounded, exact = (text_samples(gpt, gpt, tokenizer, [prompt], max_new_tokens=12)[0].dense for gpt in (half, back))
    assert rounded == exact and half.lm_head.weight.dtype == torch.bfloat16
