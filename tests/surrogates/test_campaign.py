from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from small_space import SPACE, random_genes, true_latency

from hw_profiles.device import Workload
from hw_profiles.table import Measurement, MeasurementTable
from supernet.encoding import from_genes
from supernet.spaces import load_space
from surrogates.campaign import TargetKey, campaign

WORKLOAD = Workload(1, 64)


def rows(n: int = 6) -> list[Measurement]:
    genes = random_genes(n)
    ids = [from_genes(SPACE, row).id for row in genes]
    found = [
        Measurement("small", arch, "latency_ms", "ms", "gpu", WORKLOAD, (v, 2 * v, v), order=i)
        for i, (arch, v) in enumerate(zip(ids, true_latency(genes), strict=True))
    ]
    quality = [Measurement("small", arch, "perplexity", "1", "any", WORKLOAD, (30.0,)) for arch in ids[:4]]
    return found + quality


def frame(measurements: list[Measurement], folder) -> pd.DataFrame:
    table = MeasurementTable(folder / "t")
    table.append(measurements)
    return table.read()


def test_values_repeats_and_order_are_aligned_by_architecture(tmp_path) -> None:
    measured = rows()
    data = campaign(frame(measured, tmp_path), SPACE)
    latency, quality = TargetKey("latency_ms", "gpu"), TargetKey("perplexity")
    assert data.targets == (latency, quality)
    for row in measured[:6]:
        at = int(np.flatnonzero(data.ids == row.architecture)[0])
        assert data.values[latency][at] == np.median(row.repeats)
        assert data.order[latency][at] == row.order
        assert data.repeats[latency][at].tolist() == list(row.repeats)
        assert from_genes(SPACE, data.genes[at]).id == row.architecture
        assert data.widths[at] == from_genes(SPACE, data.genes[at]).n_embd
    assert np.isnan(data.values[quality]).sum() == 2
    assert quality not in data.repeats
    assert data.workloads[latency] == WORKLOAD.id


def test_bad_tables_are_refused(tmp_path) -> None:
    good = rows()
    with pytest.raises(ValueError, match="no rows of space 'gpt-s'"):
        campaign(frame(good, tmp_path / "a"), load_space("gpt-s"))
    with pytest.raises(ValueError, match="measured twice"):
        campaign(frame([*good, replace(good[0], order=9)], tmp_path / "b"), SPACE)
    with pytest.raises(ValueError, match="several workloads"):
        campaign(frame([*good, replace(good[0], workload=Workload(2, 64))], tmp_path / "c"), SPACE)
    with pytest.raises(ValueError, match="values are above 0"):
        campaign(frame([*good[1:], replace(good[0], repeats=(0.0, 0.0))], tmp_path / "d"), SPACE)
    with pytest.raises(ValueError, match="no metric 'speed'"):
        campaign(frame(good, tmp_path / "e"), SPACE, metrics=["speed"])
