from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ftframe import registry
from ftframe.api import Message
from ftframe.data import hub
from ftframe.data.datasets import alpaca, guanaco, jsonl, parse_llama2_text, split_validation, text
from ftframe.data.prompt_templates import Llama2
from ftframe.errors import ConfigError, DataError, FtframeError

Write = Callable[[str, object], str]
USER, ASSISTANT = Message("user", "u"), Message("assistant", "a")
PAIR = {"prompt": "u", "completion": "a"}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths start at the test's folder; nothing is cached outside of it, and no hub is asked."""
    import datasets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / ".cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows as JSON Lines, or text or bytes as they are, and gives the path."""

    def write(name: str, content: object) -> str:
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else str(content).encode())
        return name

    return write


def as_lists(conversations: Sequence[Sequence[Message]]) -> list[list[Message]]:
    return [list(conversation) for conversation in conversations]


@pytest.mark.parametrize("name", ["alpaca", "guanaco", "jsonl", "text"])
def test_each_dataset_is_registered(name: str) -> None:
    assert registry.datasets.load(name).__name__ == name


def test_jsonl(write: Write) -> None:
    train = write("train.jsonl", [{"q": str(number), "a": "a"} for number in range(5)])
    validation = write("validation.jsonl", [{"q": "v", "a": "a"}])
    columns = {"prompt": "q", "completion": "a"}
    splits = jsonl(path=train, validation_path=validation, columns=columns, limit=3)
    assert {name: [row[0].content for row in rows] for name, rows in splits.items()} == {
        "train": ["0", "1", "2"], "validation": ["v"],
    }  # fmt: skip
    assert list(jsonl(path=train, columns=columns)) == ["train"]


def test_jsonl_line_ends_blank_lines_and_separators_inside_of_strings(write: Write) -> None:
    path = write("a.jsonl", '\ufeff{"prompt": "u\u2028", "completion": "a"}\r\n\r\n{"prompt": "u", "completion": "a"}')
    assert as_lists(jsonl(path=path)["train"]) == [[Message("user", "u\u2028"), ASSISTANT], [USER, ASSISTANT]]


BAD_FILES = [
    ("no-rows", b"", DataError, "data.dataset.path=bad.jsonl: the file holds no rows"),
    ("blank", b"\n \n", DataError, "holds no rows"),
    ("json", b'{"text": "a"}\n\n{"text": \n', DataError, "line 3 is not valid JSON: Expecting value at column"),
    ("pretty-printed", b'[\n{"text": "a"}\n]', DataError, "line 1 is not valid JSON"),
    ("deep", b"[" * 200_000, DataError, "line 1 is not valid JSON"),
    ("utf-8", b'{"text": "a"}\n{"text": "\xe9"}', DataError, "line 2 is not valid UTF-8 (byte 0xe9 at column 11)"),
    ("utf-16", '{"text": "a"}'.encode("utf-16"), DataError, "line 1 is not valid UTF-8"),
    ("list-rows", b"[1]\n[2]", DataError, "bad.jsonl, row 1: no row is an object with columns"),
    ("late-null", b'{"text": "a"}\n\n{"text": null}', DataError, "bad.jsonl, row 3: column 'text' is null"),
    ("late-missing", b'{"text": "a"}\n{"txt": "b"}', DataError, "bad.jsonl, row 2: column 'text' is missing"),
    ("late-list", b'{"text": "a"}\n[1]', DataError, "bad.jsonl, row 2 is a list; an object is needed"),
    ("columns", b'{"q": "a"}', ConfigError, "The columns there are: 'q'"),
]


@pytest.mark.parametrize(("content", "kind", "reason"), [c[1:] for c in BAD_FILES], ids=[c[0] for c in BAD_FILES])
def test_a_bad_file_is_refused_in_words(write: Write, content: bytes, kind: type[FtframeError], reason: str) -> None:
    write("bad.jsonl", content)
    with pytest.raises(kind) as caught:
        jsonl(path="bad.jsonl")
    assert reason in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_file_tells_the_nearest_name(write: Write, tmp_path: Path) -> None:
    write("train.jsonl", [PAIR])
    for build in (jsonl, text, alpaca, guanaco):
        with pytest.raises(ConfigError, match=r"data\.dataset\.path=trian\.jsonl: .*Did you mean 'train\.jsonl'"):
            build(path="trian.jsonl")
    with pytest.raises(ConfigError, match=r"data\.dataset\.validation_path=no/valid\.jsonl: there is no folder 'no'"):
        jsonl(path="train.jsonl", validation_path="no/valid.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.jsonl is a folder; a file is needed"):
        jsonl(path="folder.jsonl")
    with pytest.raises(ConfigError, match=r"is a folder.* It holds folder\.jsonl, train\.jsonl"):
        jsonl(path=".")


@pytest.mark.parametrize("limit", [0, -1, True, 1.5], ids=repr)
def test_a_limit_that_is_not_positive(write: Write, limit: Any) -> None:
    write("a.jsonl", [{"text": "a"}])
    for build in (jsonl, text, alpaca, guanaco):
        with pytest.raises(ConfigError, match=r"data\.dataset\.limit="):
            build(path="a.jsonl", limit=limit)


ALPACA_ROWS = [{"instruction": "u", "input": "", "output": "a"}, {"instruction": "u", "input": "i", "output": "a"}]
ALPACA_READ = [[USER, ASSISTANT], [Message("user", "u\n\n### Input:\ni"), ASSISTANT]]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "folder", "rows.csv", "rows.parquet"])
def test_alpaca_reads_local_files_and_folders(write: Write, tmp_path: Path, name: str) -> None:
    import datasets

    if name == "folder":
        (tmp_path / name).mkdir()
        write("folder/train.jsonl", ALPACA_ROWS)
    elif name.endswith(".parquet"):
        datasets.Dataset.from_list(ALPACA_ROWS).to_parquet(name)
    elif name.endswith(".csv"):
        write(name, "instruction,input,output\nu,,a\nu,i,a\n")
    else:
        write(name, ALPACA_ROWS if name.endswith("l") else json.dumps(ALPACA_ROWS))
    assert as_lists(alpaca(path=name)["train"]) == ALPACA_READ
    splits = alpaca(path=name, limit=1, validation_path=name)
    assert {split: as_lists(rows) for split, rows in splits.items()} == {
        "train": ALPACA_READ[:1], "validation": ALPACA_READ[:1],
    }  # fmt: skip


def test_alpaca_refuses_other_columns(write: Write) -> None:
    write("a.jsonl", [PAIR])
    with pytest.raises(ConfigError, match=r"(?s)'prompt', 'completion'.*instruction and output, optionally input"):
        alpaca(path="a.jsonl")


def test_alpaca_names_the_row(write: Write) -> None:
    write("a.json", json.dumps([ALPACA_ROWS[0], {"instruction": "u", "input": "", "output": None}]))
    with pytest.raises(DataError, match=r"a\.json, row 2: column 'output' is null; a string is needed"):
        alpaca(path="a.json")


def test_broken_tables_are_refused_in_words(write: Write, tmp_path: Path) -> None:
    write("broken.json", '[{"instruction": ')
    write("broken.parquet", b"no parquet")
    write("notes.docx", b"")
    (tmp_path / "empty").mkdir()
    for name in ("broken.json", "broken.parquet", "notes.docx", "empty"):
        with pytest.raises(DataError, match=rf"data\.dataset\.path={name}"):
            alpaca(path=name)


@pytest.mark.parametrize("build", [alpaca, guanaco], ids=["alpaca", "guanaco"])
def test_a_hub_that_cannot_be_reached(build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError) as caught:
        build(split="test")
    for part in ("data.dataset.path=", "hub was tried (split 'test')", "no route to host", "a local file"):
        assert part in str(caught.value)


def test_hub_ids_go_to_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, *, data_files: str | None, split: str) -> list[Any]:
        asked.append((name, data_files, split))
        return [{"text": "<s>[INST] u [/INST] a </s>"}]

    monkeypatch.setattr("datasets.load_dataset", load)
    assert as_lists(guanaco()["train"]) == [[USER, ASSISTANT]]
    assert asked == [("mlabonne/guanaco-llama2-1k", None, "train")]
    with pytest.raises(ConfigError, match="there is no folder"):
        hub.load_rows("a/b/c", split="train")


GUANACO = [
    ("one-turn", "<s>[INST] u [/INST] a </s>", [USER, ASSISTANT]),
    ("two-turns", "<s>[INST] u [/INST] a </s><s>[INST] u [/INST] a </s>", [USER, ASSISTANT] * 2),
    ("empty-answer", "<s>[INST] u [/INST]  </s>", [USER, Message("assistant", "")]),
    ("empty-answer-one-space", "<s>[INST] u [/INST] </s>", [USER, Message("assistant", "")]),
    ("own-space", "<s>[INST]  u\n [/INST]  a\n\nb  </s>", [Message("user", " u\n"), Message("assistant", " a\n\nb ")]),
    ("system", "<s>[INST] <<SYS>>\ns\n<</SYS>>\n\nu [/INST] a </s>", [Message("system", "s"), USER, ASSISTANT]),
]


@pytest.mark.parametrize(("row", "expected"), [c[1:] for c in GUANACO], ids=[c[0] for c in GUANACO])
def test_guanaco(write: Write, row: str, expected: list[Message]) -> None:
    assert as_lists(guanaco(path=write("g.jsonl", [{"text": row}]))["train"]) == [expected]


def test_what_llama2_writes_is_parsed_back() -> None:
    messages = [Message("system", "s"), USER, ASSISTANT, Message("user", "2\n"), Message("assistant", "b\nc")]
    names = {"bos_token": "<s>", "eos_token": " </s>"}
    written = "".join(names[s.text] if s.special else s.text for s in Llama2().render(messages))
    assert parse_llama2_text(written.replace("[/INST]", "[/INST] "), where="row 1") == messages


NOT_GUANACO = [
    ("plain", "hello", "where it reads 'hello'"),
    ("no-end", "<s>[INST] u [/INST] a", r"where it reads '<s>\[INST\] u \[/INST\] a'"),
    ("text-after", "<s>[INST] u [/INST] a </s> more", "where it reads 'more'"),
    ("nested", "<s>[INST] [INST] u [/INST] a </s>", r"the marker \[INST\] inside"),
    ("two-ends", "<s>[INST] u [/INST] a [/INST] b </s>", r"the marker \[/INST\] inside"),
    ("late-system", "<s>[INST] u [/INST] <<SYS>> </s>", "the marker <<SYS>> inside"),
]


@pytest.mark.parametrize(("row", "reason"), [c[1:] for c in NOT_GUANACO], ids=[c[0] for c in NOT_GUANACO])
def test_guanaco_refuses_rows_that_do_not_parse(write: Write, row: str, reason: str) -> None:
    path = write("g.jsonl", [{"text": "<s>[INST] u [/INST] a </s>"}, {"text": row}])
    with pytest.raises(DataError, match=rf"g\.jsonl, row 2: column 'text' does not parse: .*{reason}"):
        guanaco(path=path)


def contents(splits: Any, split: str = "train") -> list[str]:
    assert all(len(row) == 1 and row[0].role == "assistant" for row in splits[split])
    return [row[0].content for row in splits[split]]


def test_text_files(write: Write) -> None:
    path = write("a.txt", "\ufeffone\r\nmore\r\n\r\n\r\n  two\r\n\n \n\nthree\n")
    assert contents(text(path=path)) == ["one\nmore", "  two", "three"]
    assert contents(text(path=path, limit=2)) == ["one\nmore", "  two"]
    assert contents(text(path=path, separator=None)) == ["one\nmore\n\n\n  two\n\n \n\nthree\n"]
    assert contents(text(path=write("b.txt", "a---b"), separator="---")) == ["a", "b"]
    assert contents(text(path=path, validation_path="b.txt"), "validation") == ["a---b"]


def test_text_in_json_lines(write: Write) -> None:
    path = write("a.jsonl", [{"body": "one\n\nmore"}, {"body": "two"}])
    assert contents(text(path=path, columns={"text": "body"})) == ["one\n\nmore", "two"]


def test_text_refuses(write: Write) -> None:
    write("a.txt", "one")
    write("blank.txt", " \n\n")
    write("latin.txt", b"one\n\xe9")
    with pytest.raises(DataError, match=r"blank\.txt: the file holds no text"):
        text(path="blank.txt")
    with pytest.raises(DataError, match=r"latin\.txt: line 2 is not valid UTF-8"):
        text(path="latin.txt")
    with pytest.raises(ConfigError, match=r"data\.dataset\.columns has no meaning for data\.dataset\.path=a\.txt"):
        text(path="a.txt", columns={"text": "body"})
    with pytest.raises(ConfigError, match=r"data\.dataset\.separator is empty"):
        text(path="a.txt", separator="")


def test_split_validation_is_seeded_and_keeps_order_and_rows() -> None:
    rows = [[Message("assistant", str(number))] for number in range(50)]
    splits = split_validation(rows, fraction=0.1, seed=3)
    train, validation = contents(splits), contents(splits, "validation")
    assert (len(train), len(validation)) == (45, 5)
    assert sorted(train + validation, key=int) == [str(number) for number in range(50)]
    assert train == sorted(train, key=int)
    assert splits == split_validation(rows, fraction=0.1, seed=3)
    assert splits != split_validation(rows, fraction=0.1, seed=4)


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.01, 0.99, -1.0, 2.0])
def test_split_validation_refuses_an_empty_side(fraction: float) -> None:
    with pytest.raises(ConfigError, match=rf"fraction of {fraction} takes .* of 10 rows"):
        split_validation([[ASSISTANT]] * 10, fraction=fraction, seed=0)


def test_real_rows(shared_data: Path) -> None:
    columns = {"prompt": "question", "completion": "answer"}
    folder = shared_data / "gsm8k"
    splits = jsonl(path=str(folder / "train.jsonl"), validation_path=str(folder / "test.jsonl"), columns=columns)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 7473, "validation": 1319}
    assert all("####" in row[1].content for row in splits["train"])
