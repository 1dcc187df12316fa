"""A synthetic run, written once for all tests of the report."""

import pytest
from report_fakes import write_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run") / "demo", n_profiled=60, n_evaluations=150)


@pytest.fixture(scope="session")
def report_data(run_folder):
    from search.report_data import load_report_data

    return load_report_data(run_folder)
