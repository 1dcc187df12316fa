"""paretolm compare, as a user runs it."""

import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest


def compare(*arguments, cwd):
    code = (
        "import sys\n"
        "from search.compare_cli import compare\n"
        "if __name__ == '__main__':\n"
        "    sys.argv[0] = 'paretolm compare'\n"
        "    sys.exit(compare())\n"
    )
    script = cwd / "paretolm.py"
    script.write_text(code)
    return subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_the_smoke_comparison_ends_with_a_report_and_one_line(tmp_path):
    pytest.importorskip("search.comparison.report")
    done = compare("--smoke", "run_dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("compare: ") and f"-> {out}" in last
    frame = pq.read_table(out / "evaluations.parquet").to_pandas()
    assert set(frame["method"]) == {"lts-warm-start", "random", "lts"} and set(frame["seed"]) == {0, 1}
    for name in ("config.yaml", "run.json", "comparison.json", "runs.parquet"):
        assert (out / name).is_file(), name
    assert list(out.glob("*.html"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("devices=[a10]", "near matches: a100"),
        ("scales=[gpt-xl]", "near matches: gpt-"),
        ("methods=[nsga22]", "near matches: nsga2"),
        ("metrics=[perplexity,latensy]", "near matches: latency"),
        ("+n_evaluations.nsga22=5", "near matches: nsga2"),
        ("seeds=0", "seeds = 0"),
        ("+budgets.memory=1", "the smallest value found"),
    ],
)
def test_a_mistake_ends_with_one_clear_message(tmp_path, override, message):
    done = compare("--smoke", override, "run_dir=out", cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "out").rglob("*.parquet"))
