"""Whole searches: the exact front of small spaces, golden fronts under a fixed seed, and random search beaten."""

import json

import numpy as np
import pytest
from optimizer_checks import ALGORITHMS, drive, values
from search_fakes import large_space, small_space

from search.algorithms.lts_population import lower_convex_hull
from search.algorithms.mo_rea import MOREA
from search.algorithms.random_search import RandomSearch
from search.pareto import Normalisation, nondominated, normalised_hypervolume

BY_ID = {param.id: param.values[0] for param in ALGORITHMS} | {"mo_rea": MOREA}

GOLDEN = json.loads(
    """
{
"local_search": {"0": "e48-l0-h2-f96-b0", "4": "e64-l0-h2-f128-b0", "7": "e48-l0_1-h2x2-f96x2-b0", "10":
"e48-l0-h2-f48-b0", "13": "e32-l0-h2-f64-b0", "16": "e64-l0_2-h4x3-f128x3-b0", "24": "e64-l0-h4-f128-b0", "37":
"e64-l0-h2-f64-b0", "38": "e32-l0-h2-f32-b0", "41": "e64-l0_2-h4.2x2-f128x2.64-b0", "48":
"e64-l0_2-h4x2.2-f128x3-b0", "53": "e64-l0_2-h4.2x2-f128x3-b0", "59": "e64-l0_1-h2x2-f128x2-b0", "64":
"e64-l0_1-h4x2-f128x2-b0", "70": "e64-l0_2-h2x3-f128x2.64-b0", "79": "e64-l0_1-h4.2-f128x2-b0", "87":
"e64-l0_1-h2x2-f128.64-b0", "103": "e64-l0_1-h2x2-f64x2-b0", "104": "e64-l0_2-h2x3-f128x3-b0", "114":
"e64-l0_2-h2x3-f128.64x2-b0"},
"local_search_sweep": {"0": "e48-l0-h2-f96-b0", "1": "e48-l0_1-h2x2-f96x2-b0", "2": "e48-l0-h2-f48-b0", "3":
"e32-l0-h2-f64-b0", "4": "e64-l0-h2-f128-b0", "8": "e64-l0-h2-f64-b0", "10": "e32-l0-h2-f32-b0", "13":
"e64-l0_1-h2x2-f64x2-b0", "19": "e64-l0_2-h2x3-f128x3-b0", "25": "e64-l0_2-h2x3-f128x2.64-b0", "26":
"e64-l0_1-h2x2-f128x2-b0", "28": "e64-l0_2-h4.2x2-f128x3-b0", "31": "e64-l0_2-h2x3-f128.64x2-b0", "34":
"e64-l0_2-h4.2x2-f128x2.64-b0", "39": "e64-l0_1-h4.2-f128x2-b0", "40": "e64-l0-h4-f128-b0", "43":
"e64-l0_2-h4x2.2-f128x3-b0", "49": "e64-l0_1-h4x2-f128x2-b0", "56": "e64-l0_1-h2x2-f128.64-b0", "60":
"e64-l0_2-h4x3-f128x3-b0"},
"mo_rea": {"0": "e48-l0-h2-f96-b0", "9": "e64-l0-h2-f128-b0", "10": "e32-l0-h2-f32-b0", "26": "e64-l0-h4-f128-b0",
"32": "e48-l0-h2-f48-b0", "34": "e32-l0-h2-f64-b0", "51": "e48-l0_1-h2x2-f96x2-b0", "52": "e64-l0_1-h4x2-f128x2-b0",
"55": "e64-l0-h2-f64-b0", "60": "e64-l0_2-h4.2x2-f128x3-b0", "61": "e64-l0_1-h2x2-f128x2-b0", "64":
"e64-l0_2-h4x3-f128x3-b0", "66": "e64-l0_1-h2x2-f128.64-b0", "73": "e64-l0_2-h4x2.2-f128x3-b0", "75":
"e64-l0_1-h2x2-f64x2-b0", "79": "e64-l0_1-h4.2-f128x2-b0", "87": "e64-l0_2-h4.2x2-f128x2.64-b0", "108":
"e64-l0_2-h2x3-f128.64x2-b0", "109": "e64-l0_2-h2x3-f128x2.64-b0", "113": "e64-l0_2-h2x3-f128x3-b0"},
"lts": {"1": "e48-l0-h2-f48-b0", "5": "e64-l0_2-h2x3-f128x2.64-b0", "11": "e32-l0-h2-f32-b0", "12":
"e64-l0-h2-f128-b0", "14": "e64-l0_2-h4.2x2-f128x2.64-b0", "17": "e48-l0-h2-f96-b0", "18":
"e64-l0_1-h4.2-f128x2-b0", "23": "e64-l0-h4-f128-b0", "41": "e32-l0-h2-f64-b0", "43": "e64-l0-h2-f64-b0", "64":
"e64-l0_1-h2x2-f128x2-b0", "71": "e64-l0_1-h4x2-f128x2-b0", "74": "e64-l0_1-h2x2-f128.64-b0", "104":
"e64-l0_2-h2x3-f128x3-b0", "106": "e48-l0_1-h2x2-f96x2-b0", "113": "e64-l0_2-h2x3-f64.128.64-b0", "116":
"e64-l0_2-h4x3-f128x3-b0", "118": "e64-l0_1-h2x2-f64x2-b0", "119": "e64-l0_2-h2.4.2-f128x3-b0", "122":
"e64-l0_2-h4x2.2-f128x3-b0", "135": "e64-l0_2-h4x2.2-f128x2.64-b0"},
"lts_warm_start": {"0": "e64-l0_2-h4x3-f128x3-b0", "1": "e32-l0-h2-f32-b0", "2": "e64-l0_1-h4.2-f128x2-b0", "3":
"e64-l0_2-h2x3-f128x3-b0", "4": "e64-l0-h4-f128-b0", "5": "e64-l0_1-h2x2-f64x2-b0", "6": "e64-l0-h2-f64-b0", "7":
"e64-l0_2-h4.2x2-f128x3-b0", "8": "e64-l0_1-h4x2-f128x2-b0", "9": "e64-l0_1-h2x2-f128x2-b0", "11":
"e64-l0-h2-f128-b0", "12": "e64-l0_2-h2x3-f128x2.64-b0", "14": "e48-l0-h2-f48-b0", "18":
"e64-l0_2-h2x3-f128.64x2-b0", "22": "e64-l0_2-h4.2x2-f128x2.64-b0", "28": "e64-l0_1-h2x2-f128.64-b0", "29":
"e32-l0-h2-f64-b0", "44": "e48-l0-h2-f96-b0", "57": "e64-l0_2-h4x2.2-f128x3-b0", "102": "e48-l0_1-h2x2-f96x2-b0"},
"nsga2_100": {"0": "e48-l0-h2-f96-b0", "9": "e64-l0-h2-f128-b0", "10": "e32-l0-h2-f32-b0", "26":
"e64-l0-h4-f128-b0", "32": "e48-l0-h2-f48-b0", "34": "e32-l0-h2-f64-b0", "59": "e64-l0_2-h2x3-f64x3-b0", "64":
"e64-l0_2-h2x3-f128.64x2-b0", "72": "e64-l0_1-h2x2-f128.64-b0", "73": "e64-l0_1-h2x2-f64x2-b0", "77":
"e64-l0-h2-f64-b0", "80": "e64-l0_2-h2.4.2-f128x2.64-b0", "81": "e64-l0_2-h4.2x2-f128x3-b0", "83":
"e64-l0_1-h2x2-f128x2-b0", "88": "e64-l0_2-h4x3-f128x3-b0", "94": "e48-l0_1-h2x2-f96x2-b0", "98":
"e64-l0_2-h4x2.2-f128x3-b0", "106": "e64-l0_1-h4.2-f128x2-b0", "127": "e64-l0_2-h4.2x2-f128.64x2-b0"}
}
"""
)


def best_known(name, seed, keep):
    """Values of the best of all 1,548 networks of a space, and of those that 60 % of so many evaluations find."""
    space = small_space(n_layer=(1, 2, 3), mlp_ratio=(1, 2, 3))
    table = values(list(space.enumerate()))
    assert len(table) == 1548
    found = values(drive(BY_ID[name](space, rng=np.random.default_rng(seed)), len(table) * 6 // 10, batch=5))
    return {tuple(v) for v in table[keep(table)]}, {tuple(v) for v in found[keep(found)]}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["local_search", "local_search_any", "local_search_sweep", "mo_rea", "lts"])
def test_the_front_is_that_of_exhaustive_enumeration(name, seed):
    truth, found = best_known(name, seed, nondominated)
    assert found == truth


@pytest.mark.parametrize("seed", range(2))
def test_the_front_from_a_training_free_one_is_that_of_exhaustive_enumeration(seed):
    truth, found = best_known("lts_warm_start", seed, nondominated)
    assert found == truth


@pytest.mark.parametrize("seed", range(3))
def test_lts_from_the_hull_finds_the_exact_hull(seed):
    truth, found = best_known("lts_hull", seed, lower_convex_hull)
    assert found == truth


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_fronts_and_when_they_were_found_do_not_change(name):
    space = small_space(n_layer=(1, 2, 3), bias=(False,))
    archs = drive(BY_ID[name](space, rng=np.random.default_rng(11)), 140, batch=5)
    front = np.flatnonzero(nondominated(values(archs)))
    assert {str(i): archs[i].id for i in front} == GOLDEN[name]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_beats_random_search_of_as_many_evaluations(algorithm):
    seeds, space = range(4), large_space()
    n = 1500 if getattr(algorithm, "keywords", {}).get("sweep") else 400  # one sweep is about 40 evaluations
    found = {
        kind: [values(drive(kind(space, rng=np.random.default_rng(seed)), n)) for seed in seeds]
        for kind in (algorithm, RandomSearch)
    }
    bounds = Normalisation.of(np.concatenate([v for runs in found.values() for v in runs]))
    scores = {kind: [normalised_hypervolume(v, bounds) for v in runs] for kind, runs in found.items()}
    assert np.mean(scores[algorithm]) > np.mean(scores[RandomSearch])
