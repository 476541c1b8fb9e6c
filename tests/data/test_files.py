"""Raw rows of each kind of file, and what is wrong with the bad ones."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftframe.api import BadRow
from ftframe.data import documents as documents_module
from ftframe.data.files import RawRow, existing_file
from ftframe.data.sources import READERS, Place, open_source
from ftframe.errors import ConfigError, DataError, FtframeError

Write = Callable[[str, object], str]
KEY = "data.dataset.path"


def rows_of(path: str, **options: Any) -> list[RawRow | BadRow]:
    return list(open_source(Place(path, KEY, **options)))


def values(path: str, **options: Any) -> list[Any]:
    rows = rows_of(path, **options)
    assert all(isinstance(row, RawRow) for row in rows), rows
    return [row.value for row in rows if isinstance(row, RawRow)]


PAIRS = [{"prompt": "u", "completion": "None"}, {"prompt": 'é\n, "', "completion": "NA"}]
CSV = 'prompt,completion\nu,None\n"é\n, """,NA\n'
SAME = [
    ("rows.jsonl", PAIRS),
    ("rows.ndjson", PAIRS),
    ("rows.json", PAIRS),
    ("indented.json", json.dumps(PAIRS, indent=2)),
    ("lines.json", "".join(json.dumps(row) + "\n" for row in PAIRS)),
    ("bom.json", "\ufeff" + json.dumps(PAIRS)),
    ("rows.csv", CSV),
    ("crlf.csv", CSV.replace("NA\n", "NA\r\n").replace("None\n", "None\r\n")),
    ("bom.csv", "\ufeff" + CSV),
    ("blank-lines.csv", CSV.replace("None\n", "None\n\n") + "\n"),
    ("rows.tsv", 'prompt\tcompletion\nu\tNone\n"é\n, """\tNA'),
    ("rows.parquet", PAIRS),
    ("rows.arrow", PAIRS),
    ("we[ird]*?.parquet", PAIRS),
]


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
@pytest.mark.parametrize(("name", "content"), SAME, ids=[case[0] for case in SAME])
def test_every_kind_of_file_gives_the_same_rows(write: Write, name: str, content: object, streaming: bool) -> None:
    if streaming and name in ("rows.json", "indented.json", "bom.json"):
        with pytest.raises(ConfigError, match=rf"{KEY}={name}: a list in JSON can only be read as a whole.*JSON Lines"):
            rows_of(write(name, content), streaming=True)
        return
    rows = rows_of(write(name, content), streaming=streaming)
    assert [row.where for row in rows] == [f"{name}, row 1", f"{name}, row 2"]
    assert [row.value for row in rows if isinstance(row, RawRow)] == PAIRS


def test_every_kind_of_file_is_tested() -> None:
    assert {Path(name).suffix for name, _ in SAME} | {".txt", ".md"} == set(READERS)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
def test_rows_can_be_iterated_again(write: Write, name: str) -> None:
    rows = open_source(Place(write(name, CSV if name.endswith("csv") else PAIRS), KEY))
    assert list(rows) == list(rows)


def test_an_indented_object_is_one_row(write: Write) -> None:
    assert values(write("a.json", json.dumps(PAIRS[0], indent=2))) == PAIRS[:1]


def test_json_lines_keep_separators_inside_of_strings_and_number_rows_by_line(write: Write) -> None:
    rows = rows_of(write("a.jsonl", '\ufeff{"text": "u\u2028"}\r\n \r\n{"text": "a"}'))
    assert rows == [RawRow("a.jsonl, row 1", {"text": "u\u2028"}), RawRow("a.jsonl, row 3", {"text": "a"})]


def test_csv_values_are_texts(write: Write) -> None:
    path = write("a.csv", "a,b,c\nnull,,1\nNaN,n/a,007\n" + "x" * 200_000 + ",,\n")
    assert values(path)[:2] == [{"a": "null", "b": "", "c": "1"}, {"a": "NaN", "b": "n/a", "c": "007"}]
    assert len(values(path)[2]["a"]) == 200_000


BAD_ROWS: list[tuple[str, bytes, int, str, str]] = [
    ("json.jsonl", b'{"text": \n', 1, "the line", "is not valid JSON (Expecting value at column 10); one JSON object"),
    (
        "two.jsonl",
        b'{"a": 1} {"a": 2}\n',
        1,
        "the line",
        "is not valid JSON (Extra data at column 10); one JSON object",
    ),
    ("deep.jsonl", b"[" * 200_000 + b"\n", 1, "the line", "is not valid JSON (maximum recursion depth exceeded"),
    ("digits.jsonl", b"1" * 5000 + b"\n", 1, "the line", "is not valid JSON (Exceeds the limit"),
    (
        "utf-8.jsonl",
        b'{"text": "\xe9"}\n',
        1,
        "the line",
        "is not valid UTF-8 (byte 0xe9 at column 11); UTF-8 is needed",
    ),
    ("narrow.csv", b"a,b\n1\n", 1, "line 2", "has 1 value; 2 are needed, as in the header"),
    ("wide.csv", b"a,b\n1,2,3\n", 1, "line 2", "has 3 values; 2 are needed, as in the header"),
    ("late-wide.csv", b'a,b\n"1\n",2\n1,2,3\n', 2, "line 4", "has 3 values; 2 are needed, as in the header"),
    ("quote.csv", b'a,b\n"1"2,3\n', 1, "line 2", "is not valid CSV (',' expected after '\"'); quotes around a whole"),
]


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
@pytest.mark.parametrize(("name", "content", "row", "column", "rule"), BAD_ROWS, ids=[case[0] for case in BAD_ROWS])
def test_a_bad_row_is_named_and_the_others_are_read(
    write: Write, name: str, content: bytes, row: int, column: str, rule: str, streaming: bool
) -> None:
    good = b"3,4\n" if name.endswith("csv") else b'{"a": 1}\n'
    rows = rows_of(write(name, content + good), streaming=streaming)
    (bad,) = [item for item in rows if isinstance(item, BadRow)]
    assert (bad.where, bad.column) == (f"{name}, row {row}", column)
    assert bad.rule.startswith(rule)
    assert rows.index(bad) == row - 1
    assert isinstance(rows[-1], RawRow)
    assert len(rows) == row + 1


BAD_FILES: list[tuple[str, bytes, str]] = [
    ("empty.jsonl", b"", "the file holds no rows"),
    ("blank.jsonl", b"\n \n", "the file holds no rows"),
    ("utf-16.jsonl", '{"text": "a"}'.encode("utf-16"), "the file is UTF-16. Save it as UTF-8"),
    ("empty.json", b"", "the file holds no rows"),
    ("none.json", b"[]", "the file holds no rows"),
    ("cut.json", b'[{"a": 1},\n{"a"', "the file is not valid JSON: Expecting ':' delimiter at line 2, column 5"),
    ("deep.json", b"[" * 200_000, "the file is not valid JSON: maximum recursion depth exceeded"),
    ("number.json", b"7", "the file is neither a list of objects nor JSON Lines"),
    ("empty.csv", b"", "the file holds no rows"),
    ("header.csv", b"a,b\n", "the file holds no rows"),
    ("twice.csv", b"a,a\n1,2\n", "the first line must name the columns, each by a name of its own; it reads 'a', 'a'"),
    ("unnamed.csv", b"a,\n1,2\n", "the first line must name the columns, each by a name of its own; it reads 'a', ''"),
    ("utf-16.csv", "a,b".encode("utf-16"), "the file is UTF-16"),
    ("open.csv", b'a,b\n1,2\n3,"4\n5,6\n', "the row on line 3 opens a quote that never closes"),
    ("broken.parquet", b"no parquet", "the file cannot be read: "),
    ("empty.parquet", b"", "the file cannot be read: "),
    ("broken.arrow", b"no arrow", "the file cannot be read: "),
    ("blank.txt", b" \n\n", "the file holds no rows"),
    ("utf-16.txt", "a".encode("utf-16"), "the file is UTF-16"),
]


@pytest.mark.parametrize(("name", "content", "reason"), BAD_FILES, ids=[case[0] for case in BAD_FILES])
def test_a_bad_file_is_refused_in_words(write: Write, name: str, content: bytes, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        rows_of(write(name, content))
    assert str(caught.value).startswith(f"{KEY}={name}: {reason}")
    assert caught.value.exit_code == 2


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_that_may_not_be_read(write: Write) -> None:
    Path(write("a.jsonl", PAIRS)).chmod(0)
    with pytest.raises(DataError, match=r"a\.jsonl: the file cannot be read: Permission denied"):
        rows_of("a.jsonl")


def test_a_missing_file_tells_the_nearest_name(write: Write) -> None:
    write("train.jsonl", PAIRS)
    with pytest.raises(
        ConfigError, match=r"^data\.x=trian\.jsonl: .*no such file in '\.'\. Did you mean 'train\.jsonl'"
    ):
        existing_file("trian.jsonl", key="data.x")
    with pytest.raises(ConfigError, match=r"^data\.x=no/valid\.jsonl: there is no folder 'no'"):
        existing_file("no/valid.jsonl", key="data.x")


def test_an_unknown_kind_of_file(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"a\.docx: unknown kind of file '\.docx'\. Known: \.jsonl, .*\.parquet"):
        rows_of(write("a.docx", b""))


def texts(path: str, **options: Any) -> list[str]:
    return [row["text"] for row in values(path, **options)]


@pytest.mark.parametrize("piece", [1, 3, 1 << 20], ids=lambda size: f"piece-{size}")
def test_documents(write: Write, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents_module, "PIECE", piece)
    path = write("a.txt", "\ufeffone\r\nmore\r\n\r\n\r\n  two\r\n\n \n\nthree\n")
    assert texts(path) == ["one\nmore", "  two", "three"]
    assert [row.where for row in rows_of(path)] == [f"a.txt, document {number}" for number in (1, 2, 3)]
    assert texts(path, separator=None) == ["one\nmore\n\n\n  two\n\n \n\nthree\n"]
    assert texts(write("b.md", "a---b"), separator="---") == ["a", "b"]


FOLDERS: list[tuple[str, list[str], dict[str, list[str]]]] = [
    ("plain", ["b.jsonl", "a.jsonl", "in/c.jsonl"], {"train": ["a.jsonl", "b.jsonl", "in/c.jsonl"]}),
    ("by-name", ["train.jsonl", "test.jsonl"], {"train": ["train.jsonl"], "test": ["test.jsonl"]}),
    (
        "shards",
        ["train-00001-of-2.jsonl", "train-00000-of-2.jsonl", "validation-0.jsonl"],
        {"train": ["train-00000-of-2.jsonl", "train-00001-of-2.jsonl"], "validation": ["validation-0.jsonl"]},
    ),
    ("by-folder", ["train/a.jsonl", "test/a.jsonl"], {"train": ["train/a.jsonl"], "test": ["test/a.jsonl"]}),
    ("other-files", ["a.jsonl", "README.md", "LICENSE", ".hidden.jsonl", "notes.docx"], {"train": ["a.jsonl"]}),
    ("saved", ["data.arrow", "state.json", "dataset_info.json"], {"train": ["data.arrow"]}),
    ("we[ird]", ["a.jsonl"], {"train": ["a.jsonl"]}),
]


@pytest.mark.parametrize(("folder", "names", "splits"), FOLDERS, ids=[case[0] for case in FOLDERS])
def test_a_folder(write: Write, folder: str, names: list[str], splits: dict[str, list[str]]) -> None:
    for name in names:
        write(f"{folder}/{name}", [{"text": name}])
    for split, expected in splits.items():
        rows = rows_of(folder, split=split)
        assert [row.where for row in rows] == [f"{folder}/{name}, row 1" for name in expected]
        assert values(folder, split=split) == [{"text": name} for name in expected]


BAD_FOLDERS: list[tuple[str, list[str], str, str]] = [
    ("nothing", ["notes.docx"], "train", "the folder holds no data, only notes.docx. Known kinds of files: .jsonl,"),
    ("mixed", ["a.jsonl", "b.csv"], "train", "the folder holds files of several kinds (a.jsonl, b.csv); all of them"),
    ("packed", ["a.jsonl", "b.jsonl.gz"], "train", "'b.jsonl.gz' is packed. Unpack it"),
    (
        "stray",
        ["train.jsonl", "test.jsonl", "more.jsonl"],
        "train",
        "'more.jsonl' belongs to none of the splits that t",
    ),
    (
        "no-split",
        ["train.jsonl", "test.jsonl"],
        "tset",
        "the folder has no split 'tset'. Did you mean 'test'? Splits by",
    ),
    ("no-train", ["test.jsonl"], "train", "the folder has no split 'train'. Splits by the names of its files: test."),
]


@pytest.mark.parametrize(("folder", "names", "split", "reason"), BAD_FOLDERS, ids=[case[0] for case in BAD_FOLDERS])
def test_a_folder_is_refused_in_words(write: Write, folder: str, names: list[str], split: str, reason: str) -> None:
    for name in names:
        write(f"{folder}/{name}", b"{}")
    with pytest.raises(ConfigError) as caught:
        rows_of(folder, split=split)
    assert str(caught.value).startswith(f"{KEY}={folder}: {reason}")


def test_an_empty_file_in_a_folder_is_no_row_lost_in_silence(write: Write) -> None:
    write("f/a.jsonl", PAIRS)
    write("f/b.jsonl", b"")
    with pytest.raises(DataError, match=r"=f/b\.jsonl: the file holds no rows"):
        rows_of("f")


@given(content=st.binary(max_size=200) | st.text(alphabet='{}[]",:\n\r ax\x00', max_size=60).map(str.encode))
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".txt"])
def test_any_bytes_are_rows_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    try:
        rows = rows_of(str(path))
    except FtframeError as error:
        assert str(error).startswith(f"{KEY}={path}: ")
    else:
        assert rows
        if suffix == ".jsonl":
            assert len(rows) == sum(bool(line.strip()) for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
