import subprocess
import sys
import textwrap

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hw_profiles import parts
from hw_profiles.parts import merge_parts, part_files, read_parts, write_part


def numbers(*values):
    return pa.table({"x": list(values)})


def values_in(folder):
    return [x for part in read_parts(folder) if part.table is not None for x in part.table["x"].to_pylist()]


def test_parts_are_numbered_and_never_overwritten(tmp_path):
    names = [write_part(tmp_path, numbers(i)).name for i in range(3)]
    assert names == ["part-000001.parquet", "part-000002.parquet", "part-000003.parquet"]
    assert values_in(tmp_path) == [0, 1, 2]


def test_a_part_that_another_process_writes_meanwhile_is_kept(tmp_path, monkeypatch):
    write_part(tmp_path, numbers(1))
    monkeypatch.setattr(parts, "_next_number", lambda folder: 1)  # as if the other one came after the look
    assert write_part(tmp_path, numbers(2)).name == "part-000002.parquet"
    assert values_in(tmp_path) == [1, 2]


def test_a_file_system_without_hard_links_gets_unique_names(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(parts.os, "link", refuse)
    write_part(tmp_path, numbers(1))
    write_part(tmp_path, numbers(2))
    assert values_in(tmp_path) == [1, 2]
    assert not list(tmp_path.glob(".part-*"))


def test_a_full_disk_leaves_the_old_parts_and_no_rubbish(tmp_path, monkeypatch):
    write_part(tmp_path, numbers(1))

    def full(_, path, **__):
        path.write_bytes(b"PAR1 half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parts.pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        write_part(tmp_path, numbers(2))
    assert values_in(tmp_path) == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["part-000001.parquet"]


def test_a_kill_before_the_old_parts_are_deleted_repeats_no_row(tmp_path, monkeypatch):
    for i in range(3):
        write_part(tmp_path, numbers(i))
    with monkeypatch.context() as patch:
        patch.setattr(parts.Path, "unlink", lambda self, **_: sys.exit() if self.name.startswith("part-") else None)
        with pytest.raises(SystemExit):
            merge_parts(tmp_path)
    assert len(part_files(tmp_path)) == 4
    assert values_in(tmp_path) == [0, 1, 2]
    write_part(tmp_path, numbers(3))
    merge_parts(tmp_path)
    assert values_in(tmp_path) == [0, 1, 2, 3]
    assert len(part_files(tmp_path)) == 1


def test_a_part_appended_while_others_are_merged_is_kept(tmp_path, monkeypatch):
    for i in range(2):
        write_part(tmp_path, numbers(i))
    original = parts.write_part

    def write_and_let_another_append(folder, table, **arguments):
        original(folder, numbers(9))
        return original(folder, table, **arguments)

    monkeypatch.setattr(parts, "write_part", write_and_let_another_append)
    merge_parts(tmp_path)
    assert sorted(values_in(tmp_path)) == [0, 1, 9]


def test_numbers_are_not_used_again_after_a_merge(tmp_path):
    for i in range(2):
        write_part(tmp_path, numbers(i))
    assert merge_parts(tmp_path).name == "part-000003.parquet"
    assert write_part(tmp_path, numbers(2)).name == "part-000004.parquet"
    assert values_in(tmp_path) == [0, 1, 2]


def test_one_damaged_row_group_costs_only_its_own_rows(tmp_path):
    path = tmp_path / "part-000001.parquet"
    table = pa.table({"x": list(range(300))})
    pq.write_table(table, path, row_group_size=100, write_page_checksum=True, use_dictionary=False, compression="none")
    content = bytearray(path.read_bytes())
    start = content.index((150).to_bytes(8, "little"))
    content[start : start + 8] = (151).to_bytes(8, "little")
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"part-000001.parquet is damaged .*: 200 rows of it and 200 rows in all"):
        assert values_in(tmp_path) == [*range(100), *range(200, 300)]


def test_large_parts_have_few_row_groups_and_small_ones_small_groups(tmp_path):
    groups = [pq.ParquetFile(write_part(tmp_path, numbers(*range(n)))).num_row_groups for n in (300, 100_000)]
    assert groups == [2, 64]
    assert values_in(tmp_path) == [*range(300), *range(100_000)]


def test_processes_that_append_at_once_lose_nothing(tmp_path):
    code = """
        import sys, pyarrow as pa
        from pathlib import Path
        from hw_profiles.parts import merge_parts, write_part
        for i in range(20):
            write_part(Path(sys.argv[1]), pa.table({"x": [int(sys.argv[2]) + i]}))
        merge_parts(Path(sys.argv[1]))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    processes = [subprocess.Popen([*command, str(start)]) for start in (0, 100, 200)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert sorted(values_in(tmp_path)) == [start + i for start in (0, 100, 200) for i in range(20)]
