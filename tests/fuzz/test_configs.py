"""Broken config files of the user's own: refused by their name or key, and never a traceback."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from hydra.plugins.config_source import ConfigResult
from hypothesis import strategies as st

from ftframe.errors import ConfigError
from ftframe.search_path import CheckedFiles

from .command import check, explore, run
from .strategies import EXPERIMENT, MODEL, documents

slow = pytest.mark.slow
FILES = {"experiment/mine.yaml": EXPERIMENT, "model/mine.yaml": MODEL}
COMMAND = ("preview", "--config-dir=conf", "experiment=mine", "examples=1")
ROWS = "".join(f'{{"prompt": "What is {n}?", "completion": "It is {n}."}}\n' for n in range(20))


def preview(folder: Path, files: Mapping[str, bytes]) -> tuple[int, str]:
    """The exit code of a preview with these config files, held to what it must be; and what it printed on stderr."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "conf" / name).write_bytes(content)
    (folder / "rows.jsonl").write_text(ROWS)
    outcome = run(*COMMAND, cwd=folder)
    return check(outcome, folder), outcome.err


@pytest.mark.parametrize("count", [200, pytest.param(1500, marks=slow)])
def test_files_alone(count: int, tmp_path: Path) -> None:
    """Hydra reads the file, or it is refused by its name."""

    def case(content: bytes) -> str:
        (tmp_path / "mine.yaml").write_bytes(content)
        try:
            assert isinstance(CheckedFiles("user", str(tmp_path)).load_config("mine"), ConfigResult)
        except ConfigError as error:
            assert str(error).startswith(f"{tmp_path}/mine.yaml: ")
            return "refused"
        return "read"

    assert set(explore(count, st.one_of(documents(EXPERIMENT), documents(MODEL)), case)) == {"read", "refused"}


@slow
def test_files_in_the_command(tmp_path: Path) -> None:
    strategy = st.fixed_dictionaries({name: documents(text) for name, text in FILES.items()})
    tally = explore(60, strategy, lambda files: preview(tmp_path / "run", files)[0])
    assert set(tally) == {0, 2}


def bomb(width: int, depth: int) -> str:
    """A document of a few lines that stands for `width ** depth` values."""
    lines = ["a0: &a0 x"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, depth + 1)]
    return "\n".join(lines)


# What the experiment's file holds, and what is said of it.
CASES: dict[str, tuple[str | bytes, str]] = {
    "billion laughs": (bomb(10, 9), "experiment/mine.yaml: it is too large for a config, its aliases written out"),
    "merged laughs": (bomb(10, 5).replace("[", "{<<: [").replace("]", "]}"), "mine.yaml: it is too large for a config"),
    "long laughs": (f"a: &a {'x' * 100_000}\nb: [*a, *a, *a]", "mine.yaml: it is too large for a config"),
    "anchor in itself": ("seed: &a [*a]", "experiment/mine.yaml: *a stands inside of what it stands for."),
    "deep": ("a: " + "[" * 2000 + "]" * 2000, "mine.yaml: it is too large for a config"),
    "deep, never closed": ("a: " + "[" * 200_000, "mine.yaml: it is too large for a config"),
    "large": ("#" * 300_000, "mine.yaml: the file has 300,000 bytes; a config has at most 262,144."),
    "two documents": ("a: 1\n---\nb: 2", "experiment/mine.yaml: "),
    "duplicate key": ("seed: 1\nseed: 2", "found duplicate key seed"),
    "tab": ("data:\n\tbatch_size: 1", "experiment/mine.yaml: "),
    "NUL": (b"seed: 1\x00", "experiment/mine.yaml: the file is not valid YAML: "),
    "Latin-1": ("# é\nseed: 1".encode("latin-1"), "experiment/mine.yaml: the file is not valid YAML"),
    "UTF-16": ("seed: 1".encode("utf-16"), "experiment/mine.yaml: the file is not valid YAML"),
    "unknown tag": ("seed: !!python/object/apply:os.system [x]", "experiment/mine.yaml: "),
    "number in a tag": ("seed: !!int x", "experiment/mine.yaml: "),
    "text at the top": ("just a text", "mine"),
    "number at the top": ("7", "experiment/mine.yaml: "),
    "list at the top": ("- 1\n- 2", "mine"),
    "defaults that do not exist": ("# @package _global_\ndefaults:\n  - /model: nope", "nope"),
    "defaults that are no list": ("# @package _global_\ndefaults: 3", "mine"),
    "defaults of themselves": ("# @package _global_\ndefaults:\n  - mine", "mine"),
    "missing environment": ("# @package _global_\nseed: ${oc.env:NOT_THERE}", "seed: KeyError raised while"),
    "unknown resolver": ("# @package _global_\nseed: ${nope:1}", "seed: Unsupported interpolation type nope"),
    "reference to itself": ("# @package _global_\nmodel: {path: '${model.path}'}", "model.path: "),
    "reference to its node": ("# @package _global_\nmodel: {path: '${model}'}", "model.path: "),
    "broken reference": ("# @package _global_\nseed: ${", "seed"),
    "number as a text": ("# @package _global_\nseed: ten", "Value 'ten' of type 'str'"),
    "list for a node": ("# @package _global_\ndata: [1]", "In 'experiment/mine': ValidationError"),
    "text for a node": ("# @package _global_\ndata: text", "In 'experiment/mine': ValidationError"),
    "text for the optimizer": ("# @package _global_\noptim: text", "optim=text: a node of keys is needed"),
    "list for the trainer": ("# @package _global_\ntrainer: [1]", "In 'experiment/mine': ConfigTypeError"),
    "number for a callback": ("# @package _global_\ncallbacks: {a: 1}", "callbacks.a=1: a node of keys is needed"),
    "unknown key": ("# @package _global_\nsede: 1", "In 'experiment/mine': Unknown key 'sede'. Did you mean 'seed'?"),
    "no package": ("seed: 1", "In 'experiment/mine': Unknown key 'experiment'."),
    "empty": ("", "If it is no option of that group, it begins with: # @package _global_"),
    "null": ("null", "If it is no option of that group, it begins with: # @package _global_"),
    "key that is no text": ("# @package _global_\n1: 1", "1"),
    "null key": ("# @package _global_\n? null\n: 1", "mine.yaml: "),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), CASES.values(), ids=CASES)
def test_a_broken_config_file_is_refused(content: str | bytes, message: str, tmp_path: Path) -> None:
    written = content.encode() if isinstance(content, str) else content
    code, said = preview(tmp_path, {"experiment/mine.yaml": written})
    assert (code, message in said) == (2, True), said
    assert len(said) < 3000


GOOD: dict[str, str] = {
    "comments": "# @package _global_\n# nothing\n",
    "null": "# @package _global_\nnull\n",
    "anchors": "# @package _global_\ndata: {batch_size: &n 3, eval_batch_size: *n}",
    "environment": "# @package _global_\nseed: ${oc.env:NOT_THERE,7}",
    "number as text": "# @package _global_\nseed: '7'",
}


@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD)
def test_a_config_file_that_is_odd_and_right_is_taken(content: str, tmp_path: Path) -> None:
    assert preview(tmp_path, {"experiment/mine.yaml": content.encode()}) == (0, "")


def test_a_folder_in_place_of_a_config_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiment" / "mine.yaml").mkdir(parents=True)
    outcome = run(*COMMAND, cwd=tmp_path)
    assert check(outcome, tmp_path) == 2
    assert "experiment=mine" in outcome.err


def test_a_config_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    outcome = run(*COMMAND, cwd=tmp_path)
    assert check(outcome, tmp_path) == 2
    assert f"'{tmp_path}/conf' not found" in outcome.err
