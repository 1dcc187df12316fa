"""TPE: proposals that are known are not asked again, a resumed study is the same, a clear error without Optuna."""

import json
import sys

import numpy as np
import pytest
from optimizer_checks import drive, values
from search_fakes import large_space, small_space

from search.algorithms.tpe import TPE


def test_without_optuna_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"algorithm 'tpe' is Optuna's.*pip install optuna"):
        TPE(large_space(), rng=np.random.default_rng(0))


def test_a_study_cut_after_any_tell_goes_on_as_if_uncut():
    pytest.importorskip("optuna")
    told = []
    whole = drive(TPE(small_space(), rng=np.random.default_rng(0)), 40, batch=4, evaluate=noisy, told=told)
    assert len(set(whole)) == 40
    for n, state in told[1:-1:3]:
        resumed = TPE(small_space(), rng=np.random.default_rng(1))
        resumed.load_state(json.loads(state))
        assert drive(resumed, 40 - n, batch=4, evaluate=noisy) == whole[n:]


def noisy(archs):
    table = values(archs)
    table[[arch.n_head == (4, 2) for arch in archs], 0] = np.nan
    return table, np.array([0.1 * (arch.n_layer == 2) for arch in archs])


def test_it_learns_what_is_good():
    """One objective, the width: TPE soon asks for the widest only."""
    pytest.importorskip("optuna")
    archs = drive(TPE(large_space(), rng=np.random.default_rng(0)), 50, evaluate=lambda archs: values(archs, 4)[:, 3:])
    assert np.mean([arch.n_embd == 192 for arch in archs[25:]]) > 0.6


def test_settings_are_checked():
    pytest.importorskip("optuna")
    with pytest.raises(ValueError, match="n_initial = 0"):
        TPE(large_space(), rng=np.random.default_rng(0), n_initial=0)
