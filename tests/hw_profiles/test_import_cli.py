import re
import subprocess
import sys

import pytest
from hwgpt_fakes import FakeBenchmark, clone_with_history
from hydra import compose, initialize_config_module

from hw_profiles.cli import imported
from hw_profiles.table import MeasurementTable
from supernet.spaces import load_space

pytestmark = pytest.mark.filterwarnings("ignore:latency_a6000:UserWarning")


def configured(*overrides):
    with initialize_config_module("supernet.conf", version_base="1.3"):
        return compose("import", overrides=["run_dir=.", "progress=false", *overrides])


def paretolm_import(*overrides):
    code = "import sys; from hw_profiles.cli import import_; sys.argv[0] = 'paretolm import'; sys.exit(import_())"
    return subprocess.run([sys.executable, "-c", code, *overrides], capture_output=True, text=True)


def test_the_command_fills_a_table_and_says_it_in_one_line(tmp_path):
    FakeBenchmark("s", n=20).write_tidy(tmp_path / "tidy")
    arguments = ["source=hwgpt-tables", f"path={tmp_path / 'tidy'}", "scales=[s]", "devices=[a100,cpu_amd_7452]",
                 f"table={tmp_path / 'table'}", f"run_dir={tmp_path / 'run'}"]  # fmt: skip
    done = paretolm_import(*arguments)
    assert done.returncode == 0, done.stderr
    rows = len(MeasurementTable(tmp_path / "table").read())
    line = rf"{rows} rows of gpt-s imported from {tmp_path}/tidy in [\d.]+ s: {tmp_path}/table"
    assert re.fullmatch(line, done.stdout.strip())
    assert {"config.yaml", "run.json"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_mistakes_are_one_line_and_a_status(tmp_path):
    done = paretolm_import("source=hwgpt-table", f"path={tmp_path}", f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "source = 'hwgpt-table'; allowed: hwgpt-tables, hwgpt-repository, csv. Did you mean hwgpt-tables?" in line


def test_a_clone_is_imported_with_its_settings(tmp_path):
    fake = FakeBenchmark("s", n=20)
    commit = clone_with_history(tmp_path / "clone", [fake])
    cfg = configured("source=hwgpt-repository", f"path={tmp_path / 'clone'}", f"table={tmp_path / 't'}", "scales=[s]",
                     "metrics=[perplexity]", f"commit={commit}", "keep_held_out=true")  # fmt: skip
    assert imported(cfg).added == {"gpt-s": len(fake.quality)}


def test_a_csv_file_is_imported_into_its_space(tmp_path):
    (tmp_path / "mine.csv").write_text(
        "architecture,metric,unit,device,workload,value\n"
        f"{load_space('tiny').smallest().id},latency_ms,us,box,prefill-b1-t64-float32,1500\n"
    )
    cfg = configured("source=csv", f"path={tmp_path / 'mine.csv'}", f"table={tmp_path / 't'}", "space_name=tiny")
    assert imported(cfg).added == {"tiny": 1}
    assert MeasurementTable(tmp_path / "t").read()["median"].tolist() == [1.5]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["source=csv", "scales=[s]"], r"scales = \['s'\] means nothing for source=csv"),
        (["source=hwgpt-tables", "keep_held_out=true"], "keep_held_out = True means nothing for source=hwgpt-tables"),
        (["source=hwgpt-repository", "space_name=tiny"], "space_name = tiny means nothing"),
    ],
)
def test_a_setting_that_the_source_does_not_have_is_refused(overrides, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        imported(configured(*overrides, f"path={tmp_path}", f"table={tmp_path / 't'}"))


def test_importers_need_no_torch():
    modules = "hw_profiles.importers.hwgpt_repository, hw_profiles.importers.csv_rows"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
