"""Real measurements: HW-GPT-Bench, where the checkout has them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from supernet.architecture import Architecture
from supernet.space import SearchSpace
from supernet.spaces import load_space
from surrogates.candidates import candidate_models
from surrogates.features import features, width_column
from surrogates.fit import fit_metric
from surrogates.targets import Targets
from surrogates.validation import scores

FOLDER = Path(__file__).parents[2].parent / "shared" / "hwgpt_bench"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the tables of HW-GPT-Bench are not beside this checkout")


def architectures(space: SearchSpace, rows: pd.DataFrame) -> tuple[Architecture, ...]:
    found = []
    for row in rows.to_dict("records"):
        layers = tuple(range(row["n_layer"]))
        heads = tuple(row[f"n_head_{i:02}"] for i in layers)
        mlp = tuple(row[f"mlp_ratio_{i:02}"] * row["embed_dim"] for i in layers)
        found.append(Architecture(row["embed_dim"], heads, heads, mlp, layers, bool(row["bias"])))
    return tuple(found)


def real_rows(metric: str, n: int) -> Targets:
    space = load_space("gpt-s")
    if metric == "perplexity":
        y = pd.read_parquet(FOLDER / "perplexity_s.parquet").set_index("arch_id")["perplexity"]
    else:
        table = pd.read_parquet(FOLDER / "latency_s.parquet")
        y = table[table["device"] == "a100"].set_index("arch_id")["latency_ms_median"]
    y = y.sample(n, random_state=0)
    rows = pd.read_parquet(FOLDER / "architectures_s.parquet").set_index("arch_id").loc[y.index]
    unit = "1" if metric == "perplexity" else "ms"
    return Targets(metric, unit, "a100", "prefill-b8-t1024-bfloat16", architectures(space, rows), y.to_numpy())


@pytest.mark.slow
def test_surrogates_of_400_real_networks_predict_1000_others() -> None:
    space = load_space("gpt-s")
    models = candidate_models(space)
    limits = {"latency_ms": (0.4, 0.98, 1.0, 0.96), "perplexity": (0.3, 0.97, 0.6, 0.93)}
    for metric, (error, tau, error_trees, tau_trees) in limits.items():
        rows = real_rows(metric, 1400)
        held = features(space, rows.archs[400:])
        fitted = fit_metric(
            Targets(metric, rows.unit, rows.device, rows.workload, rows.archs[:400], rows.y[:400]), space, models
        )
        found = scores(rows.y[400:], fitted.predict_features(held).mean, widths=held[:, width_column(space)])
        trees = fitted.report.candidates["xgboost"]
        assert found.mape < error and found.kendall > tau
        assert trees.mape < error_trees and trees.kendall > tau_trees
        assert found.kendall_within_width > fitted.report.parameter_count.kendall_within_width + 0.1
        quantiles = fitted.predict_features(held, levels=(0.05, 0.95)).quantiles
        coverage = np.mean((quantiles[:, 0] <= rows.y[400:]) & (rows.y[400:] <= quantiles[:, 1]))
        assert 0.85 < coverage < 0.95
