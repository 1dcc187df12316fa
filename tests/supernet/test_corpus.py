"""Documents of files, folders and the standard library."""

import gzip
import hashlib

import pytest

from supernet.corpus import find_documents, stdlib_files


def text_of(document) -> str:
    return "".join(document.pieces())


def test_a_folder_gives_its_text_files_and_nothing_else(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "a.txt").write_text("first\n")
    (tmp_path / "deep" / "b.md").write_text("second\n")
    (tmp_path / "deep" / "er" / "c.txt.gz").write_bytes(gzip.compress(b"third\n"))
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "copy.txt").write_text("first\n")
    documents = find_documents(tmp_path)
    assert sorted(text_of(d) for d in documents) == ["first\n", "second\n", "third\n"]
    assert [d.sha256 for d in documents] == [hashlib.sha256(text_of(d).encode()).hexdigest() for d in documents]
    assert [d.name for d in find_documents(tmp_path, extensions=[".md"])] == ["deep/b.md"]
    assert text_of(find_documents(tmp_path / "a.txt")[0]) == "first\n"


def test_the_order_does_not_depend_on_where_the_folder_lies(tmp_path):
    for place in ("x", "y/z"):
        (tmp_path / place).mkdir(parents=True)
        for i in range(20):
            (tmp_path / place / f"{i}.txt").write_text(f"text {i}")
    names = [[d.name for d in find_documents(tmp_path / place)] for place in ("x", "y/z")]
    assert names[0] == names[1] and names[0] != sorted(names[0])


def test_several_sources_are_taken_together(tmp_path):
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("second")
    documents = find_documents([tmp_path / "a.txt", tmp_path / "folder"])
    assert {text_of(d) for d in documents} == {"first", "second"}


@pytest.mark.parametrize("limit", [9, 10, 11, 12, 23])
def test_a_limit_cuts_the_last_document_at_a_line_end(tmp_path, limit):
    (tmp_path / "a.txt").write_text("01234\n6789\nabcdefghijkl\n")
    (document,) = find_documents(tmp_path / "a.txt", max_bytes=limit)
    assert text_of(document) == "01234\n" if limit < 11 else "01234\n6789\n"
    assert document.n_bytes == len(text_of(document))
    assert document.sha256 == hashlib.sha256(text_of(document).encode()).hexdigest()


def test_a_limit_never_cuts_a_character(tmp_path):
    (tmp_path / "a.txt").write_text("aé漢🙂" * 3, encoding="utf-8")
    for limit in range(1, 30):
        (document,) = find_documents(tmp_path / "a.txt", max_bytes=limit)
        assert limit - 3 <= document.n_bytes <= limit
        assert ("aé漢🙂" * 3).startswith(text_of(document))


def test_pieces_of_a_long_text_end_at_line_ends_and_make_it_up(tmp_path, monkeypatch):
    monkeypatch.setattr("supernet.corpus._CHUNK", 50)
    text = "".join(f"line {i} é漢🙂\n" for i in range(40)) + "no end"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    pieces = list(find_documents(tmp_path / "a.txt")[0].pieces())
    assert len(pieces) > 10 and "".join(pieces) == text
    assert all(p.endswith("\n") for p in pieces[:-1])


def test_the_standard_library_is_a_corpus_without_tests():
    files = stdlib_files()
    names = [name for name, _ in files]
    assert names == sorted(names) and {"ast.py", "json/decoder.py", "asyncio/events.py"} <= set(names)
    assert not [n for n in names if {"test", "tests", "idlelib", "site-packages"} & set(n.split("/"))]
    documents = find_documents("stdlib", max_bytes=300_000)
    assert 250_000 < sum(d.n_bytes for d in documents) <= 300_000
    assert documents == find_documents("stdlib", max_bytes=300_000)
    source = dict(files)
    assert text_of(documents[0]) == source[documents[0].name].read_bytes().decode()


def test_text_that_is_missing_empty_or_damaged_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no text at .*nowhere"):
        find_documents(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no text in .*0 file\(s\) found"):
        find_documents(tmp_path)
    with pytest.raises(ValueError, match="empty list"):
        find_documents([])
    with pytest.raises(ValueError, match="max_bytes = 0"):
        find_documents("stdlib", max_bytes=0)
    (tmp_path / "latin.txt").write_bytes("fine\né".encode("latin-1") + b"x")
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8 text \(near byte"):
        text_of(find_documents(tmp_path)[0])
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"text " * 1000)[:-20])
    with pytest.raises(ValueError, match=r"cut\.txt\.gz is a damaged \.gz file"):
        find_documents(tmp_path / "cut.txt.gz")
