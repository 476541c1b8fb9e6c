"""One task from rows to checked examples, with an account of what became of every row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from ftframe.api import BadRow, Row, Rows
from ftframe.data.cache import cache_key, cached, fingerprint_rows
from ftframe.data.conversations import as_row
from ftframe.data.examples import Examples
from ftframe.data.splitting import hold_out
from ftframe.data.streaming import Stream
from ftframe.data.supervision import check_supervision, prompt_ids, stop_token_ids
from ftframe.data.task_data import MEND, PreparedTask, Prompt, TaskSource
from ftframe.data.tokenizing import Tokenized, tokenize_rows
from ftframe.errors import ConfigError, DataError

PROBE = 100
"""Rows of a stream that are tokenised and checked before training."""

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""A progress bar, from its description and total to what advances it by a number."""


def prepare_task(source: TaskSource, *, progress: Progress, train: bool = True, whole: bool = False) -> PreparedTask:
    """Read, split, tokenise and check the rows of a task.

    Args:
        source: What they are made from.
        progress: Shows how far tokenising is.
        train: Whether the training rows are wanted.
        whole: Whether every row is measured where there is no validation split, and none held back for training.

    Raises:
        DataError: If a row cannot be learnt from, or nothing is left.
        ConfigError: If rows cannot be held out as asked.
    """
    task = PreparedTask(source, stop_token_ids=stop_token_ids(template=source.template, tokenizer=source.tokenizer))
    splits = dict(source.splits)
    if not isinstance(splits["train"], Sequence):
        stream = splits.pop("train")
        _check_stream(splits, source)
        if train:
            task.train = _open_stream(task, stream)
    rows = {split: _read(task, split, items) for split, items in splits.items()}
    if "validation" not in rows:
        rows = {"validation": rows["train"]} if whole else _hold_out(rows["train"], source)
    for split, kept in rows.items():
        if split == "train" and (whole or not train):
            continue
        examples = _tokenize(task, split, kept, progress)
        if split == "train":
            task.train = examples
        else:
            task.validation = examples
    task.prompts = _prompts(task)
    return task


def _read(task: PreparedTask, split: str, items: Iterable[Any]) -> list[Row]:
    """The good rows of a split; the bad ones are noted, or refused."""
    label = task.source.label(split)
    rows = [as_row(item, f"{label} row {number}") for number, item in enumerate(items, start=1)]
    bad = [row for row in rows if isinstance(row, BadRow)]
    task.source.policy.check(bad, len(rows), label)
    for row in bad:
        task.reject(split, row.where, "bad_row", f"{row.column} {row.rule}")
    good = [row for row in rows if isinstance(row, Row)]
    if not good:
        raise DataError(f"{label}: no row is left of {len(rows)}.")
    return good


def _hold_out(rows: Sequence[Row], source: TaskSource) -> dict[str, list[Row]]:
    """A part of the rows as `validation`; all of them where the task is only measured."""
    if source.weight == 0:
        return {"validation": list(rows)}
    train, validation = hold_out(rows, fraction=source.validation_fraction, seed=source.seed)
    return {"train": train, "validation": validation}


def _tokenize(task: PreparedTask, split: str, rows: list[Row], progress: Progress) -> Examples:
    """The checked examples of a split, from the cache where they are."""
    source, label = task.source, task.source.label(split)
    task.rows[split] = rows
    task.fingerprints[split] = fingerprint_rows(rows)

    def make() -> Tokenized:
        with progress(f"tokenise {label}", len(rows)) as advance:
            return tokenize_rows(
                rows, template=source.template, tokenizer=source.tokenizer, limit=source.limit, advance=advance
            )

    if source.cache_dir is None:
        made = make()
    else:
        key = cache_key(rows=task.fingerprints[split], limit=source.limit, **source.fingerprints)
        made, hit = cached(key, source.cache_dir, make)
        if hit:
            task.from_cache.append(split)
    _account(task, split, rows, made)
    if not len(made.examples):
        raise DataError(f"{label}: no example is left of {len(rows)} rows. The first has {made.rejected[0].detail}.")
    check_supervision(made.examples, tokenizer=source.tokenizer, stop_ids=task.stop_token_ids, split=label, rows=rows)
    return made.examples


def _account(task: PreparedTask, split: str, rows: Sequence[Row], made: Tokenized) -> None:
    """Note which rows gave examples and which did not.

    Raises:
        DataError: If the template could not write a row and the policy does not allow that.
    """
    unwritten = [
        BadRow(rows[number - 1].where, "the conversation", f"cannot be written: {detail}")
        for number, reason, detail in made.rejected
        if reason == "bad_row"
    ]
    task.source.policy.check(unwritten, len(rows), task.source.label(split))
    task.count(f"{split}_rows", len(rows))
    for number, reason, detail in made.rejected:
        task.reject(split, rows[number - 1].where, reason, detail)
    for outcome, number in made.counts.items():
        task.count(f"{split}_{outcome}", number)
    dropped = {number for number, _, _ in made.rejected}
    task.kept[split] = [row for number, row in enumerate(rows, start=1) if number not in dropped]


def _prompts(task: PreparedTask) -> list[Prompt]:
    """The held-out conversations that end in an answer to something, and what the model is given of them."""
    source = task.source
    conversations = [row.messages for row in task.kept["validation"]]
    answered = [c for c in conversations if c[-1].role == "assistant" and len(c) > 1][: source.generate_examples]
    return [Prompt(c, prompt_ids(c, template=source.template, tokenizer=source.tokenizer), task.name) for c in answered]


@dataclass(frozen=True)
class StreamAccount:
    """The account of a streamed task's rows, which grows while training runs."""

    task: PreparedTask

    def reject(self, where: str, reason: str, detail: str, *, seen: int, record: bool) -> None:
        """Take note of a row that is left out.

        Raises:
            DataError: If it is bad and the policy forbids that.
        """
        policy, label = self.task.source.policy, self.task.source.label("train")
        if record:
            self.task.reject("train", where, reason, detail)
        if reason != "bad_row":
            return
        bad = self.task.counts.get("train_bad_row", 0)
        if not policy.skip:
            raise DataError(f"{label}: a bad row among the first {seen}:\n{where}: {detail}\n{MEND}")
        if bad > policy.max_fraction * max(seen, 10 * PROBE):
            raise DataError(
                f"{label}: {bad} of the first {seen} rows are bad, more than data.max_bad_fraction="
                f"{policy.max_fraction} allows to skip. The last:\n{where}: {detail}"
            )

    def count(self, name: str, number: int) -> None:
        """Add to a count."""
        self.task.count(name, number)


def _open_stream(task: PreparedTask, rows: Rows) -> Stream:
    """The stream of training examples, of which the first are checked at once."""
    source = task.source
    stream = Stream(
        rows=rows,
        template=source.template,
        tokenizer=source.tokenizer,
        limit=source.limit,
        account=StreamAccount(task),
        seed=source.seed,
        buffer=source.buffer,
    )
    first = stream.first(PROBE)
    if not len(first):
        raise DataError(f"{source.label('train')}: the first {PROBE} rows of the stream give no example.")
    check_supervision(first, tokenizer=source.tokenizer, stop_ids=task.stop_token_ids, split=source.label("train"))
    return stream


def _check_stream(splits: Mapping[str, object], source: TaskSource) -> None:
    """Refuse a stream of which nothing can be held out.

    Raises:
        ConfigError: If there is no validation split.
    """
    if "validation" not in splits:
        raise ConfigError(
            f"{source.label('train')} is streamed, so no share of it can be held out. Set "
            "data.dataset.validation_path, data.dataset.validation_split or data.dataset.validation_rows."
        )
