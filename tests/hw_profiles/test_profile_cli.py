import json
import re
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_module

from hw_profiles.cli import architectures, parse_shard
from hw_profiles.device import Workload, current_device
from hw_profiles.table import MeasurementTable
from supernet.spaces import load_space

TINY = load_space("tiny")


def configured(*overrides):
    with initialize_config_module("supernet.conf", version_base="1.3"):
        return compose("profile", overrides=list(overrides))


def paretolm(*overrides):
    code = "import sys; from supernet.dispatch import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", code, "profile", *overrides], capture_output=True, text=True)


def workload_names():
    from importlib import resources

    folder = resources.files("supernet.conf").joinpath("workload")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


@pytest.mark.parametrize("name", workload_names())
def test_every_workload_config_is_the_workload_of_its_name(name):
    workload = Workload(**configured(f"workload={name}").workload)
    phase, _, length = name.partition("-")
    assert workload.phase == phase
    assert (workload.seq_len if phase == "prefill" else workload.cache_len) == int(length)


@pytest.mark.parametrize(("name", "spec"), [("cpu", "cpu"), ("cuda", "cuda:0")])
def test_every_device_config_composes(name, spec):
    assert configured(f"device={name}").device == {"name": spec, "threads": None}


def test_the_default_space_runs_the_default_workload():
    Workload(**configured().workload).check_fits(TINY.model_config.block_size)


def test_a_sample_has_the_asked_size_the_extremes_and_the_seed():
    drawn = architectures(configured("archs.n=10"), TINY)
    assert len(set(drawn)) == 10
    assert {TINY.smallest(), TINY.largest()} <= set(drawn)
    assert drawn == architectures(configured("archs.n=10"), TINY)
    assert drawn != architectures(configured("archs.n=10", "archs.seed=1"), TINY)
    assert len(architectures(configured("archs.n=10", "archs.extremes=false"), TINY)) == 10


def test_architectures_are_read_from_every_kind_of_file(tmp_path):
    wanted = [TINY.smallest(), TINY.largest()]
    (tmp_path / "a.csv").write_text("rank,architecture\n" + "".join(f"{i},{a.id}\n" for i, a in enumerate(wanted)))
    (tmp_path / "a.txt").write_text("# picks\n\n" + "\n".join(a.id for a in wanted))
    (tmp_path / "a.json").write_text(json.dumps([wanted[0].id, wanted[1].to_dict()]))
    for name in ("a.csv", "a.txt", "a.json"):
        assert architectures(configured(f"archs.file={tmp_path / name}"), TINY) == wanted


def test_a_listed_architecture_outside_the_space_is_refused_by_gene(tmp_path):
    (tmp_path / "a.txt").write_text("e63-l0_1-h1x2-f64x2-b0\n")
    with pytest.raises(ValueError, match=r"n_embd = 63 is not in space 'tiny'; allowed: 64, 96, 128, 160"):
        architectures(configured(f"archs.file={tmp_path / 'a.txt'}"), TINY)


@pytest.mark.parametrize("text", ["1", "1/", "a/b", "-1/2", "1/2/3"])
def test_a_shard_that_is_none_is_refused(text):
    assert parse_shard("1/4") == (1, 4)
    with pytest.raises(ValueError, match="give i/n, for example 0/4"):
        parse_shard(text)


def test_the_command_fills_a_table_and_its_run_folder_and_goes_on_in_it(tmp_path):
    arguments = ["metrics=[n_params,macs]", "archs.n=4", f"run_dir={tmp_path / 'run'}"]
    first = paretolm(*arguments)
    assert first.returncode == 0, first.stderr
    device = current_device("cpu").name
    table = tmp_path / "run/measurements.parquet"
    line = re.fullmatch(r"4 architectures measured on (\S+) in \d+ s: (.+)", first.stdout.strip())
    assert line is not None, first.stdout
    assert line.groups() == (device, str(table))
    assert {"config.yaml", "run.json"} <= {path.name for path in (tmp_path / "run").iterdir()}
    assert len(MeasurementTable(table).read()) == 8
    assert "0 architectures measured" in paretolm(*arguments).stdout
    assert len(MeasurementTable(table).read()) == 8


def test_mistakes_are_one_line_and_a_status(tmp_path):
    done = paretolm("workload=decode-512", f"run_dir={tmp_path}")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "needs 513 positions, but the model's block_size is 256" in line
