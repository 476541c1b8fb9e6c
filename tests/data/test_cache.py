from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from ftframe.api import Message, Row
from ftframe.data.cache import cache_key, cached, default_cache_dir, fingerprint_rows
from ftframe.data.examples import examples_of
from ftframe.data.tokenizing import Limit, Rejected, Tokenized
from ftframe.errors import ConfigError

MADE = Tokenized(
    examples_of([{"input_ids": [1, 2], "labels": [-100, 2]}]), [Rejected(2, "too_long", "9 tokens")], {"truncated": 1}
)


def entry(folder: Path, key: str = "key") -> Path:
    return folder / "tokenized" / key


def never() -> Tokenized:
    raise AssertionError("it is in the cache")


def test_the_second_time_nothing_is_made(tmp_path: Path) -> None:
    made, hit = cached("key", tmp_path, lambda: MADE)
    assert (made, hit) == (MADE, False)
    found, hit = cached("key", tmp_path, never)
    assert hit
    assert found.examples[0]["labels"].tolist() == [-100, 2]
    assert (found.rejected, found.counts) == (MADE.rejected, MADE.counts)


@pytest.mark.parametrize("name", ["facts.json", "input_ids.npy", "starts.npy"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, name: str, damage: str) -> None:
    cached("key", tmp_path, lambda: MADE)
    file = entry(tmp_path) / name
    content = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(b"" if damage == "empty" else content[:-3])
    assert cached("key", tmp_path, lambda: MADE)[1] is False
    assert cached("key", tmp_path, never)[1] is True


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    left = entry(tmp_path, "key.partial")
    left.mkdir(parents=True)
    (left / "input_ids.npy").write_bytes(b"half")
    cached("key", tmp_path, lambda: MADE)
    assert not left.exists()
    assert cached("key", tmp_path, never)[1] is True


def test_nothing_is_kept_of_what_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        cached("key", tmp_path, never)
    assert cached("key", tmp_path, lambda: MADE)[1] is False


def ask(folder: Path, answers: Any) -> None:
    def make() -> Tokenized:
        time.sleep(0.5)
        answers.put("made")
        return MADE

    answers.put(cached("key", folder, make)[1])


def test_of_several_processes_one_makes_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [context.Process(target=ask, args=(tmp_path, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    said = [answers.get(timeout=60) for _ in range(5)]
    for process in processes:
        process.join(timeout=60)
    assert said.count("made") == 1
    assert sorted(answer for answer in said if answer != "made") == [False, True, True, True]


BASE = {"rows": "r", "template": "t", "tokenizer": "k", "limit": Limit(10, "drop")}


@pytest.mark.parametrize(
    "changed",
    [
        {"rows": "R"},
        {"template": "T"},
        {"tokenizer": "K"},
        {"limit": Limit(11, "drop")},
        {"limit": Limit(10, "truncate")},
    ],
    ids=["rows", "template", "tokenizer", "max-length", "on-too-long"],
)
def test_whatever_decides_the_tokens_changes_the_key(changed: dict[str, Any]) -> None:
    assert cache_key(**BASE) == cache_key(**BASE)
    assert cache_key(**{**BASE, **changed}) != cache_key(**BASE)


ROWS = [Row([Message("user", "a"), Message("assistant", "b")], "here, row 1")]


@pytest.mark.parametrize(
    "messages",
    [
        [Message("user", "a"), Message("assistant", "b!")],
        [Message("system", "a"), Message("assistant", "b")],
        [Message("user", "a"), Message("assistant", "b", masked=True)],
        [Message("user", "a")],
    ],
    ids=["content", "role", "masked", "fewer"],
)
def test_fingerprint_of_rows_follows_what_they_say(messages: list[Message]) -> None:
    assert fingerprint_rows([Row(ROWS[0].messages, "elsewhere")]) == fingerprint_rows(ROWS)
    assert fingerprint_rows([Row(messages, "here, row 1")]) != fingerprint_rows(ROWS)


def test_the_folder_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("FTFRAME_CACHE", raising=False)
    assert default_cache_dir() == Path("~/.cache/ftframe").expanduser()
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_cache_dir() == Path("/x/ftframe")
    monkeypatch.setenv("FTFRAME_CACHE", "/y")
    assert default_cache_dir() == Path("/y")


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigError, match=r"data\.cache_dir=.*file: .*data\.cache=false"):
        cached("key", tmp_path / "file", lambda: MADE)
