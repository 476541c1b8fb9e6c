from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from ftframe.api import BadRow, Conversation, Message, Row
from ftframe.data.prepared import prepare_task
from ftframe.data.prompt_templates import Llama2, Plain
from ftframe.data.streaming import Stream
from ftframe.data.task_data import BadRowPolicy, PreparedTask, TaskSource
from ftframe.data.tokenizing import Limit
from ftframe.errors import ConfigError, DataError, FtframeError
from ftframe.models.base import resolve_path

TOKENIZER = AutoTokenizer.from_pretrained(resolve_path("pkg://ftframe.embedded/tiny"))
BAD = BadRow("a.jsonl, row 3", "column 'output'", "is null; a string is needed")


@contextmanager
def no_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda number: None


def chat(question: str, answer: str = "yes") -> Conversation:
    return [Message("user", question), Message("assistant", answer)]


def rows(count: int) -> list[Any]:
    return [chat(str(number)) for number in range(count)]


def source(train: Any, validation: Any = None, **changed: Any) -> TaskSource:
    splits = {"train": train} if validation is None else {"train": train, "validation": validation}
    defaults: dict[str, Any] = {
        "name": "", "template": Plain(), "limit": Limit(64), "policy": BadRowPolicy(), "validation_fraction": 0.1,
        "generate_examples": 3,
    }  # fmt: skip
    return TaskSource(splits=splits, tokenizer=TOKENIZER, **{**defaults, **changed})


def prepare(train: Any, validation: Any = None, *, whole: bool = False, **changed: Any) -> PreparedTask:
    return prepare_task(source(train, validation, **changed), progress=no_bar, whole=whole)


def test_a_share_is_held_out_and_every_row_accounted_for() -> None:
    task = prepare(rows(40))
    assert (len(task.train), len(task.validation)) == (36, 4)  # type: ignore[arg-type]
    assert task.counts == {"train_rows": 36, "validation_rows": 4}
    questions = [row.messages[0].content for split in ("train", "validation") for row in task.kept[split]]
    assert sorted(questions, key=int) == [str(number) for number in range(40)]
    assert [prompt.conversation for prompt in task.prompts] == [row.messages for row in task.kept["validation"][:3]]
    assert [prompt.reference for prompt in task.prompts] == ["yes"] * 3


def test_a_task_that_is_only_measured_holds_everything_out() -> None:
    for task in (prepare(rows(10), weight=0.0), prepare(rows(10), whole=True)):
        assert (len(task.train), len(task.validation)) == (0, 10)  # type: ignore[arg-type]


def test_bad_rows_are_an_error_that_counts_them_and_shows_the_first() -> None:
    with pytest.raises(DataError) as raised:
        prepare([*rows(5), BAD, chat("x", answer=" ")], rows(2))
    assert "train: 2 of 7 rows are bad. The first:\na.jsonl, row 3: column 'output' is null" in str(raised.value)
    assert "data.on_bad_row=skip" in str(raised.value)


def test_bad_rows_are_skipped_up_to_a_share_and_reported() -> None:
    policy = BadRowPolicy(skip=True, max_fraction=0.2)
    task = prepare([*rows(9), BAD], rows(2), policy=policy)
    assert task.rejected == [
        {"split": "train", "where": BAD.where, "reason": "bad_row", "detail": f"{BAD.column} {BAD.rule}"}
    ]
    assert task.counts["train_bad_row"] == 1
    with pytest.raises(DataError, match=r"max_bad_fraction=0\.2"):
        prepare([*rows(3), BAD], rows(2), policy=policy)


def test_a_conversation_that_the_template_cannot_write_is_a_bad_row() -> None:
    odd = Row([Message("assistant", "hello")], "a.jsonl, row 9")
    with pytest.raises(DataError, match=r"a\.jsonl, row 9: the conversation cannot be written: .*'llama2'"):
        prepare([*rows(9), odd], rows(2), template=Llama2())
    task = prepare([*rows(99), odd], rows(2), template=Llama2(), policy=BadRowPolicy(skip=True))
    assert (task.counts["train_bad_row"], len(task.kept["train"])) == (1, 99)


def test_long_rows_that_are_dropped_are_not_asked_either() -> None:
    long = chat("why " * 60)
    task = prepare(rows(9), [long, *rows(2)], limit=Limit(32, "drop"))
    assert task.counts["validation_too_long"] == 1
    assert [prompt.conversation[0].content for prompt in task.prompts] == ["0", "1"]


def test_the_cache_gives_the_same_and_says_so(tmp_path: Path) -> None:
    first, second = (prepare(rows(40), cache_dir=tmp_path) for _ in range(2))
    assert isinstance(second.train, type(first.train))
    assert first.train.input_ids.tolist() == second.train.input_ids.tolist()  # type: ignore[union-attr]
    assert (first.from_cache, second.from_cache) == ([], ["train", "validation"])
    assert second.counts == first.counts
    assert [row.messages for row in second.kept["train"]] == [row.messages for row in first.kept["train"]]
    other = prepare(rows(40), cache_dir=tmp_path, fingerprints={"template": "changed"})
    assert other.from_cache == []


def test_what_was_rejected_is_remembered_by_the_cache(tmp_path: Path) -> None:
    options: dict[str, Any] = {"limit": Limit(32, "drop"), "cache_dir": tmp_path}
    first, second = (prepare([*rows(9), chat("why " * 60)], rows(2), **options) for _ in range(2))
    assert first.rejected == second.rejected != []
    assert len(second.kept["train"]) == 9


class Anew:
    """A stream."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


def test_what_is_no_sequence_is_streamed() -> None:
    task = prepare(Anew(rows(9)), rows(2))
    assert isinstance(task.train, Stream)
    assert len(task.validation) == 2
    assert len(list(task.train.batches(0, batch_size=3, capacity=None))) == 3


REFUSED: dict[str, tuple[Any, Any, type[FtframeError], str]] = {
    "empty": ([], [], DataError, "train: no row is left of 0"),
    "one-row": (rows(1), None, ConfigError, "data.validation_fraction=0.1 takes 0 of 1 rows"),
    "no-rows": ([chat("a"), "text"], None, DataError, "is of type str; a list of Message"),
    "stream-alone": (Anew(rows(5)), None, ConfigError, "data.dataset.validation_rows"),
    "empty-stream": (Anew([]), rows(2), DataError, "the first 100 rows of the stream give no example"),
    "bad-stream": (Anew([*rows(5), BAD]), rows(2), DataError, "a.jsonl, row 3"),
}


@pytest.mark.parametrize(("train", "validation", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(train: Any, validation: Any, error: type[FtframeError], message: str) -> None:
    with pytest.raises(error) as raised:
        prepare(train, validation)
    assert message in str(raised.value)


def test_all_rows_too_long() -> None:
    with pytest.raises(DataError, match=r"train: no example is left of 5 rows\. The first has \d+ tokens"):
        prepare([chat("why " * 60)] * 5, rows(2), limit=Limit(32, "drop"))
