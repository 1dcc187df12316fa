"""A real GPU and a real CPU from 20 measurements: HW-GPT-Bench, where the checkout has it."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT.parent / "shared" / "hwgpt_bench"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the tables of HW-GPT-Bench are not beside this checkout")


@pytest.mark.slow
def test_twenty_measurements_of_a_held_out_device_predict_a_thousand_others() -> None:
    spec = importlib.util.spec_from_file_location("run_adaptation", ROOT / "benchmarks" / "run_adaptation.py")
    assert spec is not None and spec.loader is not None
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    scale = study.load_scale(FOLDER, "s")
    assert scale.test.sum() == 986 and not (scale.test & scale.train).any()
    train = np.flatnonzero(scale.train)
    ratios = []
    for device, limit in (("a100", 1.0), ("a40", 0.8), ("h100", 1.0), ("cpu_xeon_silver", 6.0)):
        sources = study.sources_of(scale, "latency_ms", device, energy_only=False)
        y = scale.values["latency_ms", device]
        results = [
            study.adapted(scale, sources, y, np.random.default_rng(draw).permutation(train)[:20])["mape"]
            for draw in range(3)
        ]
        blend, source, scratch = (np.mean([r[way] for r in results]) for way in ("blend", "source", "scratch"))
        assert sources.shape[1] == 13 and blend < limit
        ratios.append((blend / source, blend / scratch))
    assert (np.exp(np.log(ratios).mean(axis=0)) < [0.8, 0.95]).all()
