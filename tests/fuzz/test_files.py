"""Broken files of rows: refused by name, or skipped and reported, and never a traceback."""

from __future__ import annotations

import copy
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from ftframe import compose
from ftframe.api import BadRow, Row
from ftframe.data import fingerprints
from ftframe.data.datasets import table
from ftframe.errors import FtframeError

from .command import as_task, check, explore, run
from .strategies import files

slow = pytest.mark.slow
WAYS = ("data.on_bad_row=error", "data.on_bad_row=skip")
NO_BENCH = ("baseline=false", "data.generate_examples=0", "trainer.enable_progress_bar=false", "trainer.max_steps=1")


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=slow)])
def test_reading(count: int, tmp_path: Path) -> None:
    """The reader gives rows and what is wrong with rows, each by its place, or refuses the file by its name."""

    def read(drawn: tuple[str, bytes]) -> str:
        suffix, content = drawn
        path = tmp_path / f"rows{suffix}"
        path.write_bytes(content)
        try:
            found = list(table(path=str(path))["train"])
        except FtframeError as error:
            assert "rows." in str(error) or "columns" in str(error)
            return "refused"
        assert found
        assert all(isinstance(row, Row | BadRow) for row in found)
        assert all(row.where.startswith((f"{path}, row ", f"{path}, document ")) for row in found)
        return "bad rows" if any(isinstance(row, BadRow) for row in found) else "good"

    assert set(explore(count, files(), read)) == {"refused", "bad rows", "good"}


@pytest.fixture
def quick_fingerprints(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash of a module's source, which does not change between cases, is made once."""
    monkeypatch.setattr(fingerprints, "sources", functools.cache(fingerprints.sources))


@pytest.fixture(scope="module")
def composed() -> Callable[[str, str], Any]:
    """The checked config of a command on a file of rows."""

    @functools.cache
    def of(command: str, way: str) -> Any:
        overrides = ["data=table", "data.dataset.path=rows.jsonl", "data.validation_fraction=0.3", way]
        if command == "fit":
            overrides += ["peft=lora", *NO_BENCH]
        return compose.check(compose.compose(command, overrides))

    return lambda command, way: copy.deepcopy(of(command, way))


def prepared(command: str, composed: Callable[[str, str], Any], folder: Path) -> Callable[[Any], tuple[int, str]]:
    """A case: the command on a file, with what it may leave behind held to what it must be."""
    from ftframe.tasks import fit, preview

    task = {"fit": fit.fit, "preview": preview.preview}[command]

    def case(drawn: tuple[tuple[str, bytes], str]) -> tuple[int, str]:
        (suffix, content), way = drawn
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / f"rows{suffix}").write_bytes(content)
        cfg = composed(command, way)
        cfg.data.dataset.path = f"rows{suffix}"
        code = check(as_task(task, cfg, folder), folder)
        left = sorted(path.name for path in folder.iterdir())
        assert left in ([f"rows{suffix}"], ["outputs", f"rows{suffix}"])
        if code == 0:
            (finished,) = folder.glob("outputs/*/*")
            assert (finished / {"fit": "manifest.json", "preview": "preview.json"}[command]).is_file()
        return code, way

    return case


@pytest.mark.parametrize("count", [40, pytest.param(400, marks=slow)])
def test_preview(count: int, tmp_path: Path, composed: Any, quick_fingerprints: None) -> None:
    case = prepared("preview", composed, tmp_path / "run")
    tally = explore(count, st.tuples(files(), st.sampled_from(WAYS)), case)
    assert set(tally) == {(code, way) for code in (0, 2) for way in WAYS}


@slow
def test_fit(tmp_path: Path, composed: Any, quick_fingerprints: None) -> None:
    case = prepared("fit", composed, tmp_path / "run")
    tally = explore(30, st.tuples(files(), st.sampled_from(WAYS)), case)
    assert {code for code, _ in tally} == {0, 2}


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").mkdir()
    outcome = run("preview", "data=jsonl", "data.dataset.path=rows.jsonl", cwd=tmp_path)
    assert check(outcome, tmp_path) == 2
    assert "data.dataset.path=rows.jsonl: the folder holds no data" in outcome.err


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "rows.jsonl").chmod(0)
    outcome = run("preview", "data=jsonl", "data.dataset.path=rows.jsonl", cwd=tmp_path)
    assert check(outcome, tmp_path) == 2
    assert "data.dataset.path=rows.jsonl: the file cannot be read: Permission denied." in outcome.err
