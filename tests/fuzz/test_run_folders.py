"""Damaged run folders, given to `evaluate` and `predict`: refused by file, and never a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import strategies as st

from .command import FOREIGN, Outcome, explore, run
from .strategies import changed, documents, mutated, places, values

pytest.importorskip("ftframe.models.sealed_folder", reason="an artifact's files are not held to digests yet")

slow = pytest.mark.slow
TINY = (
    "data.dataset.size=16", "data.dataset.validation_size=4", "trainer.max_steps=1", "baseline=false", "peft=lora",
    "data.generate_examples=0", "trainer.enable_progress_bar=false", "checkpoint.every_n_steps=0",
)  # fmt: skip
JSON_FILES = ("adapter/ftframe.json", "adapter/adapter_config.json")
COMMANDS = {
    "evaluate": ("evaluate", "run=run", "trainer.enable_progress_bar=false", "metrics=none"),
    "predict": ("predict", "run=run", "prompt=Who?", "max_new_tokens=1"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step."""
    folder = tmp_path_factory.mktemp("finished")
    outcome = run("fit", *TINY, "output_dir=run", cwd=folder)
    assert outcome.code == 0, outcome
    assert (folder / "run" / "manifest.json").is_file()
    return folder / "run"


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder with a copy of the run."""
    shutil.copytree(finished, tmp_path / "run")
    yield tmp_path


def check(outcome: Outcome, folder: Path) -> int:
    """Hold an outcome to what it must be: done, or refused with a message, and nothing that looks complete."""
    assert not any(words in outcome.out + outcome.err for words in FOREIGN), outcome.err
    assert outcome.code in (0, 1, 2), outcome
    made = list(folder.glob("outputs/*/*"))
    if outcome.code:
        assert outcome.err.startswith("error: "), outcome
        assert not [path for path in made if (path / "manifest.json").exists() or (path / "predictions.jsonl").exists()]
    shutil.rmtree(folder / "outputs", ignore_errors=True)
    return int(outcome.code)


def damaged(finished: Path) -> st.SearchStrategy[tuple[str, str, bytes]]:
    """A command, a file of the run and what stands in it instead."""
    whole = {name: (finished / name).read_bytes() for name in (*JSON_FILES, "config.yaml")}
    parsed = {name: json.loads(whole[name]) for name in JSON_FILES}
    odd = st.one_of(values, st.just(...), st.sampled_from(["../x", "/etc/passwd", "os.system", "a" * 300, {}, [], -1]))

    @st.composite
    def files(draw: st.DrawFn) -> tuple[str, str, bytes]:
        name = draw(st.sampled_from(sorted(whole)))
        if draw(st.integers(0, 3)) == 0:
            content = draw(mutated(whole[name]))
        elif name in parsed:
            place = draw(st.sampled_from(list(places(parsed[name]))))
            content = json.dumps(changed(parsed[name], place, draw(odd))).encode()
        else:
            content = draw(documents(whole[name].decode()))
        return draw(st.sampled_from(sorted(COMMANDS))), name, content

    return files()


@pytest.mark.parametrize("count", [3, pytest.param(40, marks=slow)])
def test_damaged_files(count: int, finished: Path, folder: Path) -> None:
    def case(drawn: tuple[str, str, bytes]) -> int:
        command, name, content = drawn
        (folder / "run" / name).write_bytes(content)
        try:
            return check(run(*COMMANDS[command], cwd=folder), folder)
        finally:
            shutil.copy(finished / name, folder / "run" / name)

    tally = explore(count, damaged(finished), case)
    assert tally[2]


MISSING = ("adapter/ftframe.json", "adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_is_named(command: str, name: str, folder: Path) -> None:
    path = folder / "run" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    outcome = run(*COMMANDS[command], cwd=folder)
    assert check(outcome, folder) in (1, 2)
    assert path.name in outcome.err


@pytest.mark.parametrize("command", COMMANDS)
def test_the_run_is_taken_as_it_was(command: str, folder: Path) -> None:
    assert check(run(*COMMANDS[command], cwd=folder), folder) == 0
