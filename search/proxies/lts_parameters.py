"""Parameters of LTS's GPT-2 and Transformer-XL networks in closed form, split by part. No torch.

With d = d_model, I_l = d_inner and p_l = n_head_l * (d // n_head_l) of layer l (Javaheripi et al. 2022; checked against
all 1,121 published counts and against modules):

* GPT-2: attention 3 d p + 3 p + p d + d (with biases); feed-forward 2 d I + I + d; norms 4 d a layer and 2 d at the
  end.
* Transformer-XL: attention 3 d p + d p (positions) + p d + 2 p (u and v of each layer), no biases; feed-forward the
  same; norms 4 d a layer.
* Adaptive embedding: the vocabulary is cut at `cutoffs` into clusters i of r_i words, each e_i = d_embed // div_val^i
  wide and projected to d. With div_val 1: one matrix, projected only when d_embed is not d. GPT-2 adds tgt_len * d for
  positions.
* Adaptive softmax, its matrices tied to the embedding: rows for the tail clusters, a bias for each word, and the
  projections that are not tied.

Decoder parameters, LTS's proxy, are attention + feed-forward + norms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# GPT-2 networks whose published counts were made with Transformer-XL's formula: attention, decoder, embedding (without
# positions) and total are not those of the networks. `lts_parameters` has the right ones.
COUNTED_AS_TRANSFORMER_XL = frozenset({"random_GPT2_lm1b"})
_PUBLISHED = {
    "attention": "params_attention", "ffn": "params_ffn", "decoder": "params_decoder",
    "embedding": "params_adaptive_embedding", "total": "params_total",
}  # fmt: skip


@dataclass(frozen=True)
class LTSParameters:
    """Parameters of n networks by part; every attribute is (n,) int64.

    Attributes:
        attention: projections of all layers, with Transformer-XL's for positions and its u and v.
        ffn: feed-forward layers.
        norms: layer norms.
        embedding: adaptive embedding with its projections; GPT-2's positions.
        softmax: what the adaptive softmax does not share with the embedding.
    """

    attention: Ints
    ffn: Ints
    norms: Ints
    embedding: Ints
    softmax: Ints

    @property
    def decoder(self) -> Ints:
        """Non-embedding parameters, LTS's proxy, (n,)."""
        return self.attention + self.ffn + self.norms

    @property
    def total(self) -> Ints:
        """All parameters, (n,)."""
        return self.decoder + self.embedding + self.softmax

    def columns(self) -> dict[str, Ints]:
        """Return every part and both sums by name."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return parts | {"decoder": self.decoder, "total": self.total}


def lts_parameters(models: pd.DataFrame, *, backbone: str | Sequence[str] | None = None) -> LTSParameters:
    """Count the parameters of many networks.

    Args:
        models: rows with backbone, d_model, d_embed, d_inner, n_head, div_val, cutoffs, n_token, tie_weight,
            tie_projs and tgt_len, as `LTSTable.frame` has them.
        backbone: count as if it were this one, or these (n,); None for each row's own.

    Raises:
        ValueError: a backbone that is neither "gpt2" nor "transformer_xl", or a softmax that is not tied.

    Example:
        >>> sizes = {"backbone": "gpt2", "d_model": 8, "d_embed": 8, "div_val": 1, "n_token": 100, "tgt_len": 4}
        >>> lists = {"d_inner": (16,), "n_head": (2,), "cutoffs": (100,), "tie_projs": (False,)}
        >>> counts = lts_parameters(pd.DataFrame([sizes | lists | {"tie_weight": True}]))
        >>> {name: int(count[0]) for name, count in counts.columns().items()}
        {'attention': 288, 'ffn': 280, 'norms': 48, 'embedding': 832, 'softmax': 100, 'decoder': 616, 'total': 1548}
    """
    if not models["tie_weight"].all():
        raise ValueError("tie_weight is False: only the tied softmax, LTS's own, has a formula here")
    is_gpt2 = _is_gpt2(models["backbone"].tolist() if backbone is None else backbone, len(models))
    d = models["d_model"].to_numpy(dtype=np.int64)
    inner, heads = _padded(models["d_inner"].tolist()), _padded(models["n_head"].tolist())
    attention, ffn, norms = _decoder(d, inner, heads, is_gpt2)
    embedding, softmax = _vocabulary(models)
    positions = models["tgt_len"].to_numpy(dtype=np.int64) * d * is_gpt2
    return LTSParameters(attention, ffn, norms, embedding + positions, softmax)


def decoder_parameters(d_model: Ints, d_inner: Ints, n_head: Ints, *, backbone: str) -> Ints:
    """Return decoder parameters (n,) of networks given as arrays.

    Args:
        d_model: (n,).
        d_inner: (n, L), 0 where there is no layer.
        n_head: (n, L), 0 where there is no layer.
        backbone: "gpt2" or "transformer_xl".
    """
    attention, ffn, norms = _decoder(d_model, d_inner, n_head, _is_gpt2(backbone, len(d_model)))
    return attention + ffn + norms


def published_parameters(models: pd.DataFrame) -> LTSParameters:
    """Return the counts as published, with Transformer-XL's formula for `COUNTED_AS_TRANSFORMER_XL`."""
    slipped = models["experiment"].isin(COUNTED_AS_TRANSFORMER_XL)
    return lts_parameters(models, backbone=np.where(slipped, "transformer_xl", models["backbone"]).tolist())


def count_agreement(models: pd.DataFrame) -> pd.DataFrame:
    """Return in how many rows of each experiment the formulas give the published counts.

    Columns: experiment, n, formula ("own backbone", or "as published" where that differs), and the number of equal
        rows of attention, ffn, decoder, embedding and total.
    """
    lines = []
    for name, rows in models.groupby("experiment", sort=False):
        counts = {"own backbone": lts_parameters(rows)}
        if name in COUNTED_AS_TRANSFORMER_XL:
            counts["as published"] = published_parameters(rows)
        for formula, found in counts.items():
            parts = found.columns()
            equal = {part: int((parts[part] == rows[column]).sum()) for part, column in _PUBLISHED.items()}
            lines.append({"experiment": name, "n": len(rows), "formula": formula} | equal)
    return pd.DataFrame(lines)


# --- the formulas ---------------------------------------------------------------------------------------------------


def _is_gpt2(backbone: str | Sequence[str], n: int) -> NDArray[np.bool_]:
    names = np.broadcast_to(np.asarray(backbone, dtype=object), (n,))
    if wrong := sorted(set(names.tolist()) - {"gpt2", "transformer_xl"}):
        raise ValueError(f"backbone = {wrong[0]!r}; allowed: 'gpt2', 'transformer_xl'")
    return np.asarray(names == "gpt2", dtype=bool)


def _decoder(d: Ints, inner: Ints, heads: Ints, is_gpt2: NDArray[np.bool_]) -> tuple[Ints, Ints, Ints]:
    """Return attention, feed-forward and norms, (n,) each."""
    kept = (inner > 0).astype(np.int64)  # (n, L)
    width, gpt2 = d[:, None] * kept, is_gpt2[:, None]
    p = heads * (width // np.maximum(heads, 1))  # of all heads together
    attention = np.where(gpt2, 4 * width * p + 3 * p + width, 5 * width * p + 2 * p)
    ffn = 2 * width * inner + inner + width
    norms = 4 * width.sum(axis=1) + 2 * d * is_gpt2
    return attention.sum(axis=1), ffn.sum(axis=1), norms


def _vocabulary(models: pd.DataFrame) -> tuple[Ints, Ints]:
    """Return the adaptive embedding without positions, and the softmax, (n,) each."""
    names = ("d_model", "d_embed", "div_val", "n_token")
    d, e, k, vocabulary = (models[name].to_numpy(dtype=np.int64) for name in names)
    ends = _padded([_ends(cuts, v) for cuts, v in zip(models["cutoffs"], vocabulary.tolist(), strict=True)])  # (n, K)
    exists = ends > 0
    words = np.where(exists, np.diff(ends, prepend=0, axis=1), 0)
    widths = np.where(exists, e[:, None] // k[:, None] ** np.arange(ends.shape[1]), 0)
    whole = k == 1  # one matrix for all words
    width = d[:, None]
    embedding = np.where(whole, (vocabulary + d * (e != d)) * e, (words * widths + width * widths).sum(axis=1))
    tied = _padded([tuple(flags) for flags in models["tie_projs"]], width=ends.shape[1])[:, : ends.shape[1]]
    own = np.where(whole[:, None], (e * (e != d))[:, None], widths) * width * (exists & (tied == 0))
    softmax = (exists.sum(axis=1) - 1) * (e + 1) + vocabulary + own.sum(axis=1)
    return embedding, softmax


def _ends(cutoffs: Sequence[int], vocabulary: int) -> tuple[int, ...]:
    """Return where the clusters end: cut-offs beyond the vocabulary fall away."""
    return (*(int(c) for c in cutoffs if c < vocabulary), vocabulary)


def _padded(lists: Sequence[Sequence[int]], *, width: int = 1) -> Ints:
    """Return lists as rows (n, longest or `width`), filled with 0."""
    out = np.zeros((len(lists), max(width, *map(len, lists), 1)), dtype=np.int64)
    for row, values in zip(out, lists, strict=True):
        row[: len(values)] = values
    return out
