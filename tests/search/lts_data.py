"""LTS's table where the checkout has it, and a small one of the same form for what needs no real data."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from search.proxies.lts_genes import LTSSpace
from search.proxies.lts_parameters import lts_parameters

FOLDER = Path(__file__).parents[2].parent / "shared" / "lts"
needs_lts = pytest.mark.skipif(not FOLDER.is_dir(), reason="the table of LTS is not beside this checkout")


def small_rows(n: int = 12, *, backbone: str = "gpt2", experiment: str = "pareto_small", seed: int = 0) -> pd.DataFrame:
    """Networks of LTS's space, as the published table has them; costs and perplexity follow from their sizes."""
    space, rng = LTSSpace(backbone), np.random.default_rng(seed)
    rows = []
    for i in range(n):
        genes = space.sample(rng)
        inner, heads = space.layers(genes)
        rows.append({
            "experiment": experiment, "arch": f"M{i}", "kind": "pareto", "backbone": backbone, "dataset": "lm1b",
            "device": "arm", "n_layer": int(genes[0]), "d_model": int(genes[1]), "d_embed": int(genes[1]),
            "d_inner": tuple(inner.tolist()), "n_head": tuple(heads.tolist()), "div_val": 4,
            "cutoffs": (59997, 99997, 639997, 50264), "n_token": 50264, "tie_weight": True, "tie_projs": (False,) * 4,
            "tgt_len": 32, "mem_len": 192,
        })  # fmt: skip
    frame = pd.DataFrame(rows)
    counts = lts_parameters(frame)
    frame["params_adaptive_embedding"], frame["params_ffn"] = counts.embedding, counts.ffn
    frame["params_attention"] = frame["params_attention_formula"] = counts.attention
    frame["params_decoder"] = frame["params_decoder_formula"] = counts.decoder
    frame["params_total"] = counts.total
    frame["valid_ppl"] = 100 * (counts.decoder / 1e7) ** -0.1 * np.exp(rng.normal(0, 0.01, n))
    frame["latency_ms"] = 10 + counts.decoder / 1e6 + 3 * frame["n_layer"]
    frame["peak_memory_mb"] = 50 + 0.1 * frame["d_inner"].map(sum) + 0.05 * frame["n_layer"] * frame["d_model"]
    return frame
