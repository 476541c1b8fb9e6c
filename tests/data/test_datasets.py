from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftframe import registry
from ftframe.api import BadRow, Message, Row
from ftframe.data import documents
from ftframe.data.datasets import HEAD, read_inputs, table
from ftframe.errors import ConfigError, DataError, FtframeError

Write = Callable[[str, object], str]
USER, ASSISTANT = Message("user", "u"), Message("assistant", "a")
PAIR = {"prompt": "u", "completion": "a"}
NUMBERED = [{"prompt": str(number), "completion": "a"} for number in range(1, 8)]


def prompts(rows: Any) -> list[str]:
    """The first message of each row, all of which must be good."""
    assert all(isinstance(row, Row) for row in rows), list(rows)
    return [row.messages[0].content for row in rows]


def prompts_of(splits: Any) -> dict[str, list[str]]:
    return {split: prompts(rows) for split, rows in splits.items()}


def test_it_is_registered(write: Write) -> None:
    write("a.jsonl", [PAIR])
    built = registry.datasets.build({"name": "table", "path": "a.jsonl"}, key="data.dataset")
    assert prompts_of(built) == {"train": ["u"]}


def test_rows_know_where_they_come_from(write: Write) -> None:
    assert table(path=write("a.jsonl", [PAIR, PAIR])) == {
        "train": [Row([USER, ASSISTANT], "a.jsonl, row 1"), Row([USER, ASSISTANT], "a.jsonl, row 2")]
    }


GOOD, LATE = b'{"prompt": "u", "completion": "a"}\n', b'{"prompt": "v", "completion": "b"}\n'
BAD_INPUT: list[tuple[str, bytes, str, str]] = [
    ("missing-key", b'{"prompt": "u"}', "column 'completion'", "is missing; a string is needed"),
    ("null", b'{"prompt": "u", "completion": null}', "column 'completion'", "is null; a string is needed"),
    ("wrong-type", b'{"prompt": "u", "completion": 7}', "column 'completion'", "is a number; a string is needed"),
    (
        "empty-answer",
        b'{"prompt": "u", "completion": ""}',
        "column 'completion'",
        "is empty; text that is learnt is nee",
    ),
    (
        "blank-answer",
        b'{"prompt": "u", "completion": " "}',
        "column 'completion'",
        "is only space; text that is learnt",
    ),
    (
        "json",
        b'{"prompt": "u", "completion": ',
        "the line",
        "is not valid JSON (Expecting value at column 31); one JSON ",
    ),
    (
        "utf-8",
        b'{"prompt": "\xe9", "completion": "a"}',
        "the line",
        "is not valid UTF-8 (byte 0xe9 at column 13); UTF-8 ",
    ),
    (
        "surrogate",
        b'{"prompt": "\\ud83d", "completion": "a"}',
        "column 'prompt'",
        "holds half of a surrogate pair (\\ud8",
    ),
    ("no-object", b"[1]", "the row", "is a list; an object is needed"),
]


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
@pytest.mark.parametrize(("line", "column", "rule"), [c[1:] for c in BAD_INPUT], ids=[c[0] for c in BAD_INPUT])
def test_a_bad_row_stands_in_its_place(write: Write, line: bytes, column: str, rule: str, streaming: bool) -> None:
    path = write("train.jsonl", GOOD + GOOD + line + b"\n" + LATE)
    rows = list(table(path=path, streaming=streaming, validation_rows=1 if streaming else None)["train"])
    bad = rows[-2]
    assert isinstance(bad, BadRow)
    assert (bad.where, bad.column) == ("train.jsonl, row 3", column)
    assert bad.rule.startswith(rule)
    assert prompts([rows[0], rows[-1]]) == ["u", "v"]


ROLES = {role: {"role": role, "content": role[0]} for role in ("system", "user", "assistant", "narrator")}
BAD_CONVERSATIONS: list[tuple[str, list[Any], str, str]] = [
    (
        "unknown-role",
        ["narrator", "assistant"],
        ", message 1: key 'role'",
        "is 'narrator'; one of system, user, human,",
    ),
    ("two-answers", ["user", "assistant", "assistant"], ", message 3", "is an assistant's turn after another"),
    (
        "late-system",
        ["user", "system", "assistant"],
        ", message 2",
        "is a system message; only the first message can be",
    ),
    ("no-answer", ["user"], "", "has no message that is learnt"),
    ("none", [], "", "is an empty list; at least one message is needed"),
]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet", "rows.arrow"])
@pytest.mark.parametrize(
    ("roles", "column", "rule"), [c[1:] for c in BAD_CONVERSATIONS], ids=[c[0] for c in BAD_CONVERSATIONS]
)
def test_a_bad_conversation(write: Write, name: str, roles: list[str], column: str, rule: str) -> None:
    good = {"messages": [ROLES["user"], ROLES["assistant"]]}
    path = write(name, [good, {"messages": [ROLES[role] for role in roles]}])
    first, bad = table(path=path)["train"]
    assert first == Row([USER, ASSISTANT], f"{name}, row 1")
    assert isinstance(bad, BadRow)
    assert (bad.where, bad.column) == (f"{name}, row 2", f"column 'messages'{column}")
    assert bad.rule.startswith(rule)


def test_texts_of_csv_that_look_like_nulls_are_answers(write: Write) -> None:
    rows = list(table(path=write("a.csv", "prompt,completion\nu,None\nu,NA\nu,\n"))["train"])
    assert [row.messages[1].content for row in rows[:2] if isinstance(row, Row)] == ["None", "NA"]
    assert str(rows[2]) == "a.csv, row 3: column 'completion' is empty; text that is learnt is needed"


def test_bytes_that_are_not_utf_8_are_the_fault_of_their_row(write: Write) -> None:
    write("a.csv", b"prompt,completion\nu,a\nu,\xe9\n")
    write("a.json", b'[{"prompt": "u", "completion": "a"}, {"prompt": "u", "completion": "\xe9"}]')
    write("a.txt", b"one\n\n\xe9")
    for name, where, column in (
        ("a.csv", "row 2", "completion"), ("a.json", "row 2", "completion"), ("a.txt", "document 2", "text"),
    ):  # fmt: skip
        good, bad = table(path=name)["train"]
        assert isinstance(good, Row)
        assert str(bad) == f"{name}, {where}: column '{column}' is not valid UTF-8 (byte 0xe9 at character 1); " + (
            "UTF-8 is needed"
        )


BAD_FILES: list[tuple[str, bytes, type[FtframeError], str]] = [
    ("empty.jsonl", b"", DataError, "data.dataset.path=empty.jsonl: the file holds no rows"),
    ("columns.jsonl", b'{"q": "a"}', ConfigError, "fit no known format. The columns there are: 'q'"),
    ("no-header.csv", b"u,a\nv,b\n", ConfigError, "fit no known format. The columns there are: 'u', 'a'"),
    ("objects.json", b'{\n"data": [{"prompt": "u"}]}', ConfigError, "The columns there are: 'data'"),
    ("broken.parquet", b"no parquet", DataError, "data.dataset.path=broken.parquet: the file cannot be read"),
    ("rows.docx", b"", ConfigError, "data.dataset.path=rows.docx: unknown kind of file '.docx'"),
]


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
@pytest.mark.parametrize(("name", "content", "kind", "reason"), BAD_FILES, ids=[c[0] for c in BAD_FILES])
def test_a_bad_file_is_refused_in_words(
    write: Write, name: str, content: bytes, kind: type[FtframeError], reason: str, streaming: bool
) -> None:
    if streaming and name == "objects.json":
        reason = "a list in JSON can only be read as a whole"
    with pytest.raises(kind) as caught:
        table(path=write(name, content), streaming=streaming, validation_rows=1 if streaming else None)
    assert reason in str(caught.value)
    assert caught.value.exit_code == 2


def test_rows_of_which_none_is_an_object_are_bad_one_by_one(write: Write) -> None:
    path = write("a.jsonl", b"1\n{\n[2]\n")
    assert [str(row) for row in table(path=path)["train"]] == [
        "a.jsonl, row 1: the row is a number; an object is needed",
        "a.jsonl, row 2: the line is not valid JSON (Expecting property name enclosed in double quotes at column 2); "
        "one JSON object is needed",
        "a.jsonl, row 3: the row is a list; an object is needed",
    ]
    with pytest.raises(
        DataError, match=r"a\.jsonl: none of the first 3 rows can be read\. a\.jsonl, row 1: the row is"
    ):
        table(path=path, streaming=True, validation_rows=1)


def test_a_missing_file_names_its_key(write: Write) -> None:
    write("train.jsonl", [PAIR])
    with pytest.raises(ConfigError, match=r"^data\.dataset\.path=trian\.jsonl: .*Did you mean 'train\.jsonl'"):
        table(path="trian.jsonl")
    with pytest.raises(ConfigError, match=r"^data\.dataset\.validation_path=no/valid\.jsonl: there is no folder 'no'"):
        table(path="train.jsonl", validation_path="no/valid.jsonl")
    with pytest.raises(ConfigError, match=r"^data\.tasks\.math\.dataset\.path=trian\.jsonl: "):
        table(path="trian.jsonl", node="data.tasks.math.dataset")


SPLITS: list[tuple[str, dict[str, Any], dict[str, list[str]]]] = [
    ("all", {}, {"train": list("1234567")}),
    ("limit", {"limit": 3}, {"train": list("123")}),
    ("large-limit", {"limit": 99}, {"train": list("1234567")}),
    ("path", {"validation_path": "v.jsonl", "limit": 2}, {"train": ["1", "2"], "validation": ["v", "w"]}),
    ("first-rows", {"validation_rows": 2}, {"train": list("34567"), "validation": ["1", "2"]}),
    ("first-rows-and-limit", {"validation_rows": 2, "limit": 4}, {"train": ["3", "4"], "validation": ["1", "2"]}),
]


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
@pytest.mark.parametrize(("options", "expected"), [c[1:] for c in SPLITS], ids=[c[0] for c in SPLITS])
def test_splits(write: Write, options: dict[str, Any], expected: dict[str, list[str]], streaming: bool) -> None:
    write("t.jsonl", NUMBERED)
    write("v.jsonl", [{**PAIR, "prompt": prompt} for prompt in "vwx"])
    if streaming and "validation" not in expected:
        with pytest.raises(ConfigError) as caught:
            table(path="t.jsonl", streaming=True, **options)
        for key in ("validation_path", "validation_split", "validation_rows=N"):
            assert f"data.dataset.{key}" in str(caught.value)
        return
    splits = table(path="t.jsonl", streaming=streaming, **options)
    assert prompts_of(splits) == expected
    assert prompts_of(splits) == expected  # a stream starts anew
    assert isinstance(splits["train"], list) is not streaming
    assert isinstance(splits.get("validation", []), list)


def test_splits_of_a_folder(write: Write) -> None:
    for split in ("train", "validation", "test"):
        write(f"f/{split}.jsonl", [{**PAIR, "prompt": split}])
    assert prompts_of(table(path="f")) == {"train": ["train"]}
    assert prompts_of(table(path="f", split="test", validation_split="validation")) == {
        "train": ["test"], "validation": ["validation"],
    }  # fmt: skip
    assert prompts_of(table(path="f", validation_split="test", streaming=True)) == {
        "train": ["train"], "validation": ["test"],
    }  # fmt: skip
    assert prompts_of(table(path="f/train.jsonl", validation_path="f", validation_split="test"))["validation"] == [
        "test"
    ]
    with pytest.raises(ConfigError, match=r"f: the folder has no split 'valid'\. Did you mean 'validation'\?"):
        table(path="f", validation_split="valid")


EXCLUDED: list[tuple[str, dict[str, Any], str]] = [
    ("limit-0", {"limit": 0}, "data.dataset.limit=0 must be a positive whole number"),
    ("limit-true", {"limit": True}, "data.dataset.limit=True must be"),
    ("limit-half", {"limit": 1.5}, "data.dataset.limit=1.5 must be"),
    ("rows-0", {"validation_rows": 0}, "data.dataset.validation_rows=0 must be"),
    ("rows-and-path", {"validation_rows": 1, "validation_path": "v.jsonl"}, "validation_rows=1 and data.dataset.val"),
    ("split-of-a-file", {"split": "test"}, "data.dataset.split=test has no meaning for data.dataset.path="),
    ("validation-split-of-a-file", {"validation_split": "test"}, "data.dataset.validation_split=test has no meaning"),
    ("same-path", {"validation_path": "t.jsonl"}, "validation_path: the validation rows are the training rows"),
    ("same-split", {"validation_split": "train"}, "validation_split: the validation rows are the training rows"),
    ("revision-of-a-file", {"revision": "main"}, "data.dataset.revision=main has no meaning for data.dataset.path="),
    ("subset-of-a-file", {"subset": "en"}, "data.dataset.subset=en has no meaning for data.dataset.path=t.jsonl"),
    ("separator", {"separator": ""}, "data.dataset.separator is empty"),
    ("format", {"format": "aplaca"}, "data.dataset.format=aplaca: there is no such format. Did you mean 'alpaca'?"),
    ("mapping", {"columns": {"prompt": "prmpt"}}, "data.dataset.columns.prompt=prmpt: the dataset has no such column."),
]  # fmt: skip


@pytest.mark.parametrize(("options", "reason"), [c[1:] for c in EXCLUDED], ids=[c[0] for c in EXCLUDED])
def test_options_without_a_meaning_are_refused(write: Write, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        table(path=write("t.jsonl", NUMBERED), **options)
    assert reason in str(caught.value)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
def test_validation_rows_must_leave_some_to_train_on(write: Write, streaming: bool) -> None:
    path = write("t.jsonl", NUMBERED)
    assert prompts(table(path=path, validation_rows=6, streaming=streaming)["train"]) == ["7"]
    with pytest.raises(DataError, match=r"data\.dataset\.validation_rows=7 leaves no row to train on"):
        table(path=path, validation_rows=7, streaming=streaming)


@pytest.mark.parametrize("name", ["s.jsonl", "s.csv", "s.parquet", "s.txt"])
def test_a_stream_of_each_kind_starts_anew_in_the_same_order(write: Write, name: str) -> None:
    rows = [{"text": f"document {number}"} for number in range(2 * HEAD)]
    lines = [row["text"] for row in rows]
    content = {"s.csv": "text\n" + "\n".join(lines), "s.txt": "\n\n".join(lines)}.get(name, rows)
    train = table(path=write(name, content), streaming=True, validation_rows=1)["train"]
    assert prompts(train) == lines[1:]
    assert prompts(train) == lines[1:]


@pytest.mark.parametrize("name", ["s.jsonl", "s.csv", "s.txt"])
def test_a_stream_takes_no_more_memory_for_more_rows(write: Write, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PIECE", 1 << 16)
    lines = ["x" * 2000] * 4000  # 8 MB
    rows: Any = {"s.csv": "text\n" + "\n".join(lines), "s.txt": "\n\n".join(lines)}
    write(name, rows.get(name, [{"text": line} for line in lines]))
    train = table(path=name, streaming=True, validation_rows=1)["train"]
    tracemalloc.start()
    count = sum(1 for _ in train)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 3999
    assert peak < 1e6


def test_a_stream_hands_over_rows_that_go_bad_late(write: Write) -> None:
    path = write("s.jsonl", [PAIR] * (HEAD + 5) + [{"prompt": "u"}, 7])
    rows = list(table(path=path, streaming=True, validation_rows=1)["train"])
    assert [str(row) for row in rows[-2:]] == [
        f"s.jsonl, row {HEAD + 6}: column 'completion' is missing; a string is needed",
        f"s.jsonl, row {HEAD + 7}: the row is a number; an object is needed",
    ]


class Hub:
    """Stands for the hub behind `datasets.load_dataset`: two splits of real tables."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def load_dataset(self, path: str, subset: str | None, *, split: str, revision: str | None, streaming: bool) -> Any:
        import datasets

        self.asked.append((path, subset, split, revision, streaming))
        rows = {"train": NUMBERED, "test": [{"prompt": "t", "completion": None}]}[split]
        loaded = datasets.Dataset.from_list(rows)
        return loaded.to_iterable_dataset() if streaming else loaded


@pytest.fixture
def hub(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    stand_in = Hub()
    monkeypatch.setattr("datasets.load_dataset", stand_in.load_dataset)
    return stand_in


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
def test_hub_ids_go_to_the_hub(hub: Hub, streaming: bool) -> None:
    splits = table(path="owner/rows", subset="en", revision="v1", streaming=streaming, validation_split="test", limit=2)
    assert hub.asked == [("owner/rows", "en", "test", "v1", False), ("owner/rows", "en", "train", "v1", streaming)]
    assert [row.where for row in splits["train"] if isinstance(row, Row)] == ["owner/rows, row 1", "owner/rows, row 2"]
    assert [str(row) for row in splits["validation"]] == [
        "owner/rows, test, row 1: column 'completion' is null; a string is needed"
    ]


def test_validation_rows_of_another_hub_dataset_have_their_own_revision(hub: Hub) -> None:
    table(path="owner/rows", subset="en", revision="v1", validation_path="owner/others")
    assert hub.asked[0] == ("owner/others", None, "train", None, False)


def test_what_can_only_be_a_path_does_not_go_to_the_hub(hub: Hub) -> None:
    for path in ("a/b/c", "./rows", "rows.csv", "owner/rows.parquet"):
        with pytest.raises(ConfigError, match=r"there is no (folder|such file)"):
            table(path=path)
    assert hub.asked == []


def test_a_hub_that_cannot_be_reached(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(DataError) as caught:
        table(path="owner/rows", split="test")
    for part in ("data.dataset.path=owner/rows", "hub was tried (split 'test')", "no route to host", "a local file"):
        assert part in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("user"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "masked", "weight"]), inner, max_size=3)
    ),
    max_leaves=6,
)
fields = st.sampled_from(["prompt", "completion", "messages", "conversations", "text", "instruction", "output"])
lines = st.one_of(
    st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b"")),
    st.dictionaries(fields, json_values, max_size=4).map(lambda row: json.dumps(row).encode()),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.just(json.dumps(PAIR).encode()),
)


@given(content=st.lists(lines, max_size=8))
def test_no_row_of_broken_json_lines_is_lost(tmp_path_factory: pytest.TempPathFactory, content: list[bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "broken.jsonl"
    path.write_bytes(b"\n".join(content))
    lines_given = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    given_rows = [number for number, line in enumerate(lines_given, start=1) if line.strip()]
    try:
        rows = list(table(path=str(path))["train"])
    except (ConfigError, DataError) as error:
        assert str(error)
        return
    assert len(rows) == len(given_rows)
    assert [row.where for row in rows if isinstance(row, Row | BadRow)] == [f"{path}, row {n}" for n in given_rows]


def test_inputs_need_not_be_learnable(write: Write) -> None:
    path = write("in.jsonl", [{"q": "u", "a": ""}, {"q": "u"}])
    asked, bad = read_inputs(path, key="input", columns={"prompt": "q", "completion": "a"})
    assert asked == Row([USER, Message("assistant", "")], "in.jsonl, row 1")
    assert str(bad) == "in.jsonl, row 2: column 'a' is missing; a string is needed"
    assert read_inputs(
        write("m.jsonl", [{"messages": [{"role": "user", "content": "u"}]}]), key="input", columns={}
    ) == [Row([USER], "m.jsonl, row 1")]
    with pytest.raises(ConfigError, match=r"^input=on\.jsonl: there is no such file"):
        read_inputs("on.jsonl", key="input", columns={})
    with pytest.raises(ConfigError, match=r"^columns\.prompt=x: the dataset has no such column"):
        read_inputs(path, key="input", columns={"prompt": "x"})


def test_real_rows(shared_data: Path) -> None:
    columns = {"prompt": "question", "completion": "answer"}
    folder = shared_data / "gsm8k"
    splits = table(path=str(folder / "train.jsonl"), validation_path=str(folder / "test.jsonl"), columns=columns)
    assert {name: len(list(rows)) for name, rows in splits.items()} == {"train": 7473, "validation": 1319}
    assert all("####" in row.messages[1].content for row in splits["train"] if isinstance(row, Row))
    assert not any(isinstance(row, BadRow) for row in [*splits["train"], *splits["validation"]])
    assert prompts_of(table(path=str(folder), validation_split="test", columns=columns)) == prompts_of(splits)
    streamed = table(path=str(folder), validation_split="test", columns=columns, streaming=True)
    assert prompts_of(streamed) == prompts_of(splits)


def test_real_seed_tasks(shared_data: Path, write: Write) -> None:
    """175 tasks: an instruction, and the input and output of its first instance; 6 columns, most of them not ours."""
    tasks = [json.loads(line) for line in (shared_data / "alpaca_seed_tasks.jsonl").read_text().splitlines()]
    rows = [task | task["instances"][0] for task in tasks]
    for name in ("tasks.jsonl", "tasks.json", "tasks.parquet"):
        conversations = [row.messages for row in table(path=write(name, rows))["train"] if isinstance(row, Row)]
        assert len(conversations) == 175
        for turns, row in zip(conversations, rows, strict=True):
            assert turns[0].content.startswith(row["instruction"])
            assert turns[0].content.endswith(row["input"])
            assert turns[1] == Message("assistant", row["output"])


@pytest.mark.parametrize(("key", "meant"), [("wieght", "weight"), ("mask", "masked"), ("task", None), ("name", None)])
def test_a_misspelt_mask_of_a_message_is_a_fault(write: Write, key: str, meant: str | None) -> None:
    """It would be learnt in silence."""
    turns = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a", key: 0}]
    (row,) = table(path=write("m.jsonl", [{"messages": turns}]))["train"]
    assert isinstance(row, Row if meant is None else BadRow)
    assert meant is None or f"key '{key}' is no key of a message; '{meant}' may be meant" in str(row)
