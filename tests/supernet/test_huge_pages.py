"""Memory in huge pages: the environment, starting again, and what it does to page faults."""

import json
import os
import subprocess
import sys

import pytest

from supernet import huge_pages
from supernet.huge_pages import VARIABLE, in_use, is_possible, with_huge_pages, without_huge_pages

needs_glibc = pytest.mark.skipif(not is_possible(), reason="needs Linux with glibc >= 2.35 and transparent huge pages")


@pytest.fixture
def possible(monkeypatch):
    monkeypatch.setattr(huge_pages, "is_possible", lambda: True)


@pytest.mark.usefixtures("possible")
def test_tunables_are_added_to_what_else_was_said_and_taken_away_again():
    for before in ({"A": "1"}, {"A": "1", VARIABLE: "glibc.rtld.nns=3"}):
        told = with_huge_pages(before)
        assert in_use(told)
        assert not in_use(before)
        assert without_huge_pages(told) == before
        assert with_huge_pages(told) == told


@pytest.mark.usefixtures("possible")
def test_what_malloc_was_told_by_the_user_stays():
    mine = {VARIABLE: "glibc.malloc.hugetlb=0"}
    assert with_huge_pages(mine) == mine == without_huge_pages(mine)
    assert not in_use(mine)


def test_nothing_is_told_where_it_is_not_possible(monkeypatch, tmp_path):
    switch = tmp_path / "enabled"
    switch.write_text("always madvise [never]\n")
    monkeypatch.setattr(huge_pages, "_SWITCH", switch)
    assert not is_possible()
    assert with_huge_pages({"A": "1"}) == {"A": "1"}
    monkeypatch.setattr(huge_pages, "_SWITCH", tmp_path / "another system")
    assert not is_possible()


@pytest.mark.parametrize(("libc", "expected"), [("glibc 2.35", True), ("glibc 2.34", False), ("musl 1.2", False)])
def test_the_c_library_counts(monkeypatch, tmp_path, libc, expected):
    switch = tmp_path / "enabled"
    switch.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "_SWITCH", switch)
    monkeypatch.setattr(os, "confstr", lambda name: libc, raising=False)
    assert is_possible() == expected


def run(path, code, *arguments, environment=None):
    path.write_text(code)
    plain = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = [sys.executable, path, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=plain | (environment or {}))
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return process.pid, [json.loads(line) for line in out.splitlines()]


START = """
import json, os, sys
print(json.dumps([os.getpid(), sys.argv[1:], os.environ.get("GLIBC_TUNABLES")]), flush=True)
from supernet.huge_pages import start_again_with_huge_pages
start_again_with_huge_pages()
"""


@needs_glibc
def test_a_process_starts_again_in_its_place_once_with_the_same_arguments(tmp_path):
    pid, lines = run(tmp_path / "script.py", START, "a=1", "b c")
    assert [line[:2] for line in lines] == [[pid, ["a=1", "b c"]]] * 2
    assert lines[0][2] is None
    assert in_use({VARIABLE: lines[1][2]})


@needs_glibc
def test_a_process_does_not_start_again_where_the_user_said_something(tmp_path):
    _, lines = run(tmp_path / "script.py", START, environment={VARIABLE: "glibc.malloc.hugetlb=0"})
    assert len(lines) == 1


FAULTS = """
import json, resource, torch
def once():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(16 << 20).add_(1)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
once()
print(json.dumps(max(once() for _ in range(3))))
"""


@needs_glibc
def test_large_arrays_meet_no_page_faults_the_second_time(tmp_path):
    _, (kept,) = run(tmp_path / "faults.py", FAULTS, environment=with_huge_pages({}))
    _, (plain,) = run(tmp_path / "faults.py", FAULTS)
    assert kept < 50
    assert plain > 16 * kept
