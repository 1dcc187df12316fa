import json

import numpy as np
import pandas as pd
import pytest
from lts_data import FOLDER, needs_lts, small_rows

from search.proxies.lts_fronts import OBJECTIVES, front_agreement, front_agreements
from search.proxies.lts_ranking import BASELINE, PROXIES, lts_ranking, ranking_frame
from search.proxies.lts_table import read_lts_table


def written(tmp_path, frame: pd.DataFrame, name: str = "lts_architectures.parquet"):
    if name.endswith(".parquet"):
        frame.to_parquet(tmp_path / name)
    else:
        lists = {c: frame[c].map(json.dumps) for c in ("d_inner", "n_head", "cutoffs", "tie_projs")}
        frame.assign(**lists).to_csv(tmp_path / name, index=False)
    return tmp_path / name


# --- reading --------------------------------------------------------------------------------------------------------


def test_parquet_and_csv_hold_the_same_table(tmp_path):
    rows = small_rows().assign(device=["arm"] * 11 + [None])
    parquet = read_lts_table(written(tmp_path, rows))
    csv = read_lts_table(written(tmp_path, rows, "lts_architectures.csv"))
    pd.testing.assert_frame_equal(parquet.frame, csv.frame)
    assert read_lts_table(tmp_path).source.name == "lts_architectures.parquet"
    assert parquet.frame["d_inner"].tolist() == rows["d_inner"].tolist()


@needs_lts
def test_both_published_files_hold_the_same_networks():
    parquet, csv = (read_lts_table(FOLDER / f"lts_architectures.{kind}") for kind in ("parquet", "csv"))
    pd.testing.assert_frame_equal(parquet.frame, csv.frame)
    assert sum(e.n for e in csv.experiments) == 1121
    assert sum(e.n_trained for e in csv.experiments) == 1116
    assert {e.device for e in csv.experiments} == {None, "arm", "corei7", "titanxp"}


def test_networks_without_a_perplexity_are_counted_and_left_out(tmp_path):
    rows = small_rows()
    rows.loc[3, "valid_ppl"] = np.nan
    table = read_lts_table(written(tmp_path, rows))
    (experiment,) = table.experiments
    assert (experiment.n, experiment.n_trained) == (12, 11)
    assert "M3" not in set(table.trained("pareto_small")["arch"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop(columns="valid_ppl"), r"no columns \['valid_ppl'\]"),
        (lambda rows: rows.assign(arch="M0"), r"pareto_small/M0 is there twice \(11 rows of 12\)"),
        (lambda rows: rows.assign(backbone="lstm"), "M0 has a backbone that is none of"),
        (lambda rows: rows.assign(n_layer=1), "needs one d_inner and one n_head >= 1 for each layer"),
        (lambda rows: rows.assign(d_model=0), "has a size or count below 1"),
        (lambda rows: rows.assign(latency_ms=-1.0), "has a perplexity, latency or memory that is not positive"),
        (lambda rows: rows.assign(d_model=128.5), "column d_model must hold int values: 128.5 is no int"),
        (lambda rows: rows.assign(arch=None), "column arch must hold text values"),
        (lambda rows: rows.assign(tie_weight=1), "column tie_weight must hold bool values"),
    ],
)
def test_a_damaged_table_is_refused_by_name(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read_lts_table(written(tmp_path, change(small_rows())))


def test_a_missing_table_and_a_wrong_ending_are_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"lts_architectures.parquet or .*lts_architectures.csv: give the folder"
    ):
        read_lts_table(tmp_path)
    (tmp_path / "t.txt").write_text("x")
    with pytest.raises(ValueError, match=r"ending '.txt'; allowed: .parquet, .csv"):
        read_lts_table(tmp_path / "t.txt")


def test_an_unknown_experiment_gets_near_matches(tmp_path):
    table = read_lts_table(written(tmp_path, small_rows()))
    with pytest.raises(KeyError, match=r"no experiment 'pareto_smal'; near matches: \['pareto_small'"):
        table.trained("pareto_smal")


# --- published correlations and fronts ------------------------------------------------------------------------------


@needs_lts
def test_published_rank_correlations_are_reproduced_to_four_decimals():
    expected = pd.read_csv(FOLDER / "rank_correlations.csv").set_index(["experiment", "proxy"])
    found = ranking_frame(lts_ranking(read_lts_table(FOLDER), n_resamples=50)).set_index(["experiment", "proxy"])
    assert set(found.index) == set(expected.index)
    assert len(found) == 77
    found = found.loc[expected.index]
    assert (found["n"] == expected["n"]).all()
    for name in ("spearman", "kendall"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)
        decoder = found.xs(BASELINE, level="proxy")[name]
        np.testing.assert_array_equal(found[f"decoder_{name}"], decoder.loc[found.index.get_level_values(0)])


@needs_lts
def test_published_top_k_figures_are_reproduced():
    columns = ["top10_common_ratio", "top10_spearman", "top30_common_ratio", "top30_spearman",
               "top50_common_ratio", "top50_spearman"]  # fmt: skip
    names = ["random_GPT2_wt103", "random_TransXL_wt103"]
    found = ranking_frame(lts_ranking(read_lts_table(FOLDER), experiments=names, n_resamples=50))
    found = found.set_index(["experiment", "proxy"])
    gpt2 = [0.70, 0.574, 0.933, 0.816, 0.92, 0.927]
    transformer_xl = [0.60, 0.713, 0.85, 0.660, 0.99, 0.845]
    for name, expected in zip(names, (gpt2, transformer_xl), strict=True):
        np.testing.assert_allclose(found.loc[(name, "params_decoder"), columns].astype(float), expected, atol=6e-4)


@needs_lts
def test_published_agreement_of_fronts_is_reproduced():
    expected = {
        "pareto_GPT2_lm1b_arm": (0.54, 0.66, 0.89), "pareto_GPT2_lm1b_corei7": (0.72, 0.62, 0.92),
        "pareto_GPT2_lm1b_titanxp": (0.88, 0.64, 1.0), "pareto_TransXL_lm1b_arm": (0.63, 0.65, 0.75),
        "pareto_TransXL_lm1b_corei7": (0.61, 0.61, 0.71), "pareto_TransXL_lm1b_titanxp": (0.45, 0.54, 0.71),
    }  # fmt: skip
    found = front_agreements(read_lts_table(FOLDER))
    assert len(found) == 18
    for agreement in found:
        place = list(OBJECTIVES).index(agreement.costs)
        assert agreement.jaccard == pytest.approx(expected[agreement.experiment][place], abs=0.0051)  # two decimals


# --- fronts, on a small table ---------------------------------------------------------------------------------------


def test_a_proxy_that_ranks_as_perplexity_has_the_true_front():
    rows = small_rows()
    rows["valid_ppl"] = 1e9 / rows["params_decoder"]
    agreement = front_agreement(rows, "latency+memory")
    assert agreement.jaccard == agreement.recall == agreement.hypervolume == 1
    assert agreement.n_true == agreement.n_proxy == agreement.n_both


def test_a_front_without_the_best_network_has_less_hypervolume():
    rows = small_rows(20)
    cheapest = rows["latency_ms"].idxmin()
    rows.loc[cheapest, "valid_ppl"] = 1.0  # the smallest is now the best of all: the true front is that one
    agreement = front_agreement(rows.assign(params_decoder_formula=rows["params_decoder"]), "latency")
    assert (agreement.n_true, agreement.n_both, agreement.recall) == (1, 1, 1)
    worse = rows.assign(latency_ms=rows["latency_ms"].where(rows.index != cheapest, 1e6))
    worse["params_decoder_formula"] = worse["params_decoder"].where(worse.index != cheapest, 1)
    missed = front_agreement(worse, "latency")
    assert missed.n_both == missed.n_true - 1
    assert missed.recall == missed.n_both / missed.n_true
    assert missed.hypervolume < 1


def test_unknown_costs_and_rows_without_them_are_refused():
    with pytest.raises(ValueError, match="costs = 'energy'; allowed: latency, memory, latency\\+memory"):
        front_agreement(small_rows(), "energy")
    with pytest.raises(ValueError, match="pareto_small has no latency_ms: give an experiment of kind 'pareto'"):
        front_agreement(small_rows().assign(latency_ms=np.nan), "latency")


def test_the_ranking_has_every_proxy_of_every_experiment(tmp_path):
    rows = pd.concat([small_rows(20), small_rows(20, experiment="other", seed=1)])
    ranking = lts_ranking(read_lts_table(written(tmp_path, rows)), n_resamples=20)
    assert [(name, c.proxy) for name, c in ranking] == [(e, p) for e in ("pareto_small", "other") for p in PROXIES]
