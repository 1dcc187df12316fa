import json

import numpy as np
import pandas as pd
import pytest
from lts_data import FOLDER, needs_lts, small_rows

from search.proxies.lts_genes import LTSSpace, twin
from search.proxies.lts_parameters import (
    COUNTED_AS_TRANSFORMER_XL,
    count_agreement,
    decoder_parameters,
    lts_parameters,
    published_parameters,
)
from search.proxies.lts_table import read_lts_table

PUBLISHED = {
    "attention": "params_attention", "ffn": "params_ffn", "decoder": "params_decoder",
    "embedding": "params_adaptive_embedding", "total": "params_total",
}  # fmt: skip


# --- published counts ---------------------------------------------------------------------------------------------


@needs_lts
def test_formulas_give_every_published_count():
    rows = read_lts_table(FOLDER).frame
    found = published_parameters(rows).columns()
    assert len(rows) == 1121
    for part, column in PUBLISHED.items():
        np.testing.assert_array_equal(found[part], rows[column], err_msg=part)


@needs_lts
def test_the_one_experiment_counted_as_transformer_xl_is_the_only_one_that_its_own_formula_does_not_give():
    rows = read_lts_table(FOLDER).frame
    own = lts_parameters(rows)
    slipped = rows["experiment"].isin(COUNTED_AS_TRANSFORMER_XL).to_numpy()
    assert slipped.sum() == 200
    for part in ("attention", "decoder", "embedding", "total"):
        differs = own.columns()[part] != rows[PUBLISHED[part]].to_numpy()
        np.testing.assert_array_equal(differs, slipped, err_msg=part)
    np.testing.assert_array_equal(own.decoder, rows["params_decoder_formula"])
    np.testing.assert_array_equal(own.attention, rows["params_attention_formula"])
    missing_positions = own.embedding[slipped] - rows["params_adaptive_embedding"].to_numpy()[slipped]
    np.testing.assert_array_equal(missing_positions, (rows["tgt_len"] * rows["d_model"])[slipped])


@needs_lts
def test_agreement_counts_equal_rows_of_each_experiment():
    agreement = count_agreement(read_lts_table(FOLDER).frame).set_index(["experiment", "formula"])
    slip = agreement.loc["random_GPT2_lm1b"]
    assert slip.loc["own backbone", ["attention", "ffn", "decoder", "total"]].tolist() == [0, 200, 0, 0]
    whole = agreement.drop(index=("random_GPT2_lm1b", "own backbone"))
    for part in PUBLISHED:
        assert (whole[part] == whole["n"]).all()
    assert whole["n"].sum() == 1121


@needs_lts
def test_the_decoder_formula_gives_the_gallery_of_the_later_release():
    gallery = pd.read_csv(FOLDER / "gpt2_gallery.csv")
    inner = np.array([json.loads(text) for text in gallery["d_inner"]], dtype=object)
    layers = max(map(len, inner))
    d_inner = np.array([[*row, *[0] * (layers - len(row))] for row in inner])
    heads = gallery["n_head"].to_numpy()[:, None] * (d_inner > 0)
    found = decoder_parameters(gallery["d_model"].to_numpy(), d_inner, heads, backbone="gpt2")
    np.testing.assert_array_equal(found, gallery["decoder_params_formula"])
    np.testing.assert_allclose(found / 1e6, gallery["published_non_embedding_params_m"], atol=0.005)


# --- built modules --------------------------------------------------------------------------------------------------


def size(*modules) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def test_gpt2_counts_are_those_of_transformers_blocks():
    torch = pytest.importorskip("torch")
    from transformers import GPT2Config
    from transformers.models.gpt2.modeling_gpt2 import GPT2Block

    rows = small_rows(4, seed=3)
    counts = lts_parameters(rows)
    for i, row in enumerate(rows.itertuples()):
        with torch.device("meta"):
            blocks = []
            for d_inner, n_head in zip(row.d_inner, row.n_head, strict=True):
                config = GPT2Config(n_embd=row.d_model, n_head=n_head, n_inner=d_inner, n_positions=row.tgt_len)
                blocks.append(GPT2Block(config))
            final = torch.nn.LayerNorm(row.d_model)
        assert len({block.attn.head_dim for block in blocks}) > 1  # heads differ in width from layer to layer
        assert counts.attention[i] == size(*(block.attn for block in blocks))
        assert counts.ffn[i] == size(*(block.mlp for block in blocks))
        assert counts.norms[i] == size(*(m for block in blocks for m in (block.ln_1, block.ln_2)), final)
        assert counts.decoder[i] == size(*blocks, final)


def transformer_xl_layer(torch, d, d_inner, n_head):
    """A post-norm layer with relative positions: fused q, k, v; r; output; u and v of its own; feed-forward."""
    nn = torch.nn
    head = d // n_head
    layer = nn.Module()
    layer.qkv, layer.r = nn.Linear(d, 3 * n_head * head, bias=False), nn.Linear(d, n_head * head, bias=False)
    layer.o = nn.Linear(n_head * head, d, bias=False)
    layer.u, layer.v = (nn.Parameter(torch.empty(n_head, head)) for _ in range(2))
    layer.norm = nn.LayerNorm(d)
    layer.feed_forward = nn.Sequential(nn.Linear(d, d_inner), nn.ReLU(), nn.Linear(d_inner, d), nn.LayerNorm(d))
    return layer


def adaptive_embedding(torch, row):
    """Clusters of words with embeddings that get narrower, each projected to the model's width."""
    nn = torch.nn
    ends = [c for c in row.cutoffs if c < row.n_token] + [row.n_token]
    if row.div_val == 1:
        projection = [nn.Linear(row.d_embed, row.d_model, bias=False)] if row.d_embed != row.d_model else []
        return nn.ModuleList([nn.Embedding(row.n_token, row.d_embed), *projection])
    parts = []
    for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        width = row.d_embed // row.div_val**i
        parts += [nn.Embedding(end - start, width), nn.Linear(width, row.d_model, bias=False)]
    return nn.ModuleList(parts)


def adaptive_softmax(torch, row):
    """What a softmax tied to the embedding has of its own: biases, rows of tail clusters, untied projections."""
    nn = torch.nn
    ends = [c for c in row.cutoffs if c < row.n_token] + [row.n_token]
    own = nn.ParameterList([nn.Parameter(torch.empty(row.n_token))])
    if len(ends) > 1:
        own += [nn.Parameter(torch.empty(len(ends) - 1, row.d_embed)), nn.Parameter(torch.empty(len(ends) - 1))]
    for i in range(len(ends)):
        width = row.d_embed // row.div_val**i
        if not row.tie_projs[i] and (row.div_val > 1 or row.d_embed != row.d_model):
            own.append(nn.Parameter(torch.empty(row.d_model, width)))
    return own


@pytest.mark.parametrize("div_val", [1, 2, 4])
@pytest.mark.parametrize("d_embed", [64, 128])
@pytest.mark.parametrize("tied", [(False, True, True, True), (False,) * 4])
@pytest.mark.parametrize("n_token", [30_000, 267_736])
def test_transformer_xl_counts_are_those_of_built_modules(div_val, d_embed, tied, n_token):
    torch = pytest.importorskip("torch")
    rows = small_rows(1, backbone="transformer_xl").assign(
        d_model=128, d_embed=d_embed, div_val=div_val, n_token=n_token, n_layer=2
    )
    lists = {"d_inner": (512, 320), "n_head": (2, 8), "cutoffs": (19_997, 39_997, 199_997, n_token), "tie_projs": tied}
    for name, value in lists.items():
        rows[name] = [value]
    counts, row = lts_parameters(rows), next(rows.itertuples())
    with torch.device("meta"):
        layers = [transformer_xl_layer(torch, 128, f, h) for f, h in zip(row.d_inner, row.n_head, strict=True)]
        embedding, softmax = adaptive_embedding(torch, row), adaptive_softmax(torch, row)
    assert counts.decoder[0] == size(*layers)
    assert counts.embedding[0] == size(embedding)
    assert counts.softmax[0] == size(softmax)
    assert counts.total[0] == size(*layers, embedding, softmax)


# --- mistakes -------------------------------------------------------------------------------------------------------


def test_an_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match="backbone = 'lstm'; allowed: 'gpt2', 'transformer_xl'"):
        lts_parameters(small_rows(2), backbone="lstm")


def test_a_softmax_that_is_not_tied_is_refused():
    with pytest.raises(ValueError, match="tie_weight is False"):
        lts_parameters(small_rows(2).assign(tie_weight=False))


# --- the space ------------------------------------------------------------------------------------------------------


def test_every_sampled_network_has_a_twin_of_equal_decoder_parameters_in_the_shipped_space():
    from supernet.cost import parameter_counts
    from supernet.spaces import load_space

    space, lts, rng = load_space("lts-gpt2"), LTSSpace("gpt2"), np.random.default_rng(0)
    genomes = np.stack([lts.sample(rng) for _ in range(50)])
    twins = [twin(int(genes[1]), tuple(lts.layers(genes)[0].tolist())) for genes in genomes]
    assert all(arch in space for arch in twins)
    np.testing.assert_array_equal(parameter_counts(space.model_config, twins).decoder, lts.decoder(genomes))


@needs_lts
def test_every_saved_gpt2_network_has_a_twin_of_equal_decoder_parameters():
    from supernet.cost import parameter_counts
    from supernet.spaces import load_space

    space, rows = load_space("lts-gpt2"), read_lts_table(FOLDER).frame
    rows = rows[(rows["kind"] == "pareto") & (rows["backbone"] == "gpt2")]
    twins = [twin(d, inner) for d, inner in zip(rows["d_model"], rows["d_inner"], strict=True)]
    assert len(twins) == 122
    assert all(arch in space for arch in twins)
    np.testing.assert_array_equal(parameter_counts(space.model_config, twins).decoder, rows["params_decoder"])


def test_a_width_without_whole_heads_has_no_twin():
    with pytest.raises(ValueError, match="d_model = 100: give a multiple of 64"):
        twin(100, (200,))
