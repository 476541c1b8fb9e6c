"""The run folder and the files in it."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from ftframe import runs
from ftframe.api import Message
from ftframe.errors import ConfigError

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process, whatever started the tests; what a test sets is taken back."""
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(runs.RUN_DIR_VARIABLE, "")
    monkeypatch.delenv(runs.RUN_DIR_VARIABLE)


def test_run_ids_are_unique_and_sort_by_time() -> None:
    before = datetime.now().replace(microsecond=0)
    ids = [runs.new_run_id() for _ in range(50)]
    assert len(set(ids)) >= 49  # 26^4 endings: two of fifty are alike once in four hundred times
    for run_id in ids:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[a-z]{4}", run_id)
        assert before <= datetime.strptime(run_id[:19], "%Y-%m-%d_%H-%M-%S") <= datetime.now()


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": ""}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "3"}, False),
    ],
    ids=["alone", "zero", "empty", "second of a node", "second node", "slurm"],
)
def test_is_first_rank(environment: dict[str, str], first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert runs.is_first_rank() is first


def test_run_folder_is_made_and_handed_to_the_other_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with runs.new_run_folder(str(tmp_path / "a" / "b")) as folder:
        assert folder == (tmp_path / "a" / "b").resolve()
        assert folder.is_dir()
        monkeypatch.setenv("LOCAL_RANK", "1")
        with runs.new_run_folder(str(tmp_path / "another")) as of_another_rank:
            assert of_another_rank == folder
    assert not (tmp_path / "another").exists()
    assert list(folder.iterdir()) == []


def test_other_rank_without_a_first_takes_what_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with runs.new_run_folder(str(tmp_path / "given")) as folder:
        assert folder == tmp_path / "given"
    assert not (tmp_path / "given").exists()


@pytest.mark.parametrize(
    "left", [[], [".lock", "overrides.yaml", ".partial-config.yaml"]], ids=["empty", "of a run killed at its start"]
)
def test_folder_may_exist_that_holds_no_run(left: list[str], tmp_path: Path) -> None:
    for name in left:
        (tmp_path / name).touch()
    with runs.new_run_folder(str(tmp_path)) as folder:
        assert folder == tmp_path.resolve()


@pytest.mark.parametrize("hidden", [False, True], ids=["file", "hidden file"])
def test_folder_that_holds_something_is_refused(hidden: bool, tmp_path: Path) -> None:
    kept = tmp_path / (".kept" if hidden else "kept")
    kept.write_text("kept")
    with (
        pytest.raises(ConfigError, match=r"^output_dir=.* exists already and nothing is overwritten\."),
        runs.new_run_folder(str(tmp_path)),
    ):
        pass
    assert kept.read_text() == "kept"


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("kept")
    with pytest.raises(ConfigError, match="exists already"), runs.new_run_folder(str(tmp_path / "run")):
        pass


def all_at_once(count: int, ask: Callable[[], Path]) -> list[Path | Exception]:
    """What each of several threads gets that ask in the same moment."""
    start = threading.Barrier(count)

    def wait_and_ask() -> Path | Exception:
        start.wait()
        try:
            return ask()
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return [asked.result() for asked in [pool.submit(wait_and_ask) for _ in range(count)]]


def begin_run(folder: Path) -> Path:
    """What a run does with its folder first."""
    with runs.new_run_folder(str(folder)) as own:
        (own / runs.CONFIG).touch(exist_ok=False)
    return own


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "there and empty"])
def test_of_runs_that_ask_for_one_folder_one_gets_it(is_there: bool, tmp_path: Path) -> None:
    for attempt in range(20):
        folder = tmp_path / str(attempt) / "run"
        if is_there:
            folder.mkdir(parents=True)
        got = all_at_once(20, partial(begin_run, folder))
        assert [item for item in got if isinstance(item, Path)] == [folder]
        refused = [item for item in got if isinstance(item, runs.FolderTakenError)]
        assert len(refused) == 19
        assert all("exists already" in str(error) or "Another process is at work" in str(error) for error in refused)


@pytest.mark.parametrize(
    "output_dir", ["file/run", "\0", "x" * 300, "~nobody-of-that-name/x"], ids=["below a file", "NUL", "long", "home"]
)
def test_folder_that_cannot_be_made_is_refused(
    output_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"(?s)^output_dir=.*: the folder cannot be made: "):
        runs.new_run_folder(output_dir).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_shown_is_relative_below_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert runs.shown(tmp_path / "outputs" / "x") == Path("outputs/x")
    assert runs.shown(tmp_path.parent / "y") == tmp_path.parent / "y"


def test_files_of_a_run_hold_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["--config-name=fit", "seed=1", "+logger.api_key=s3cret", "+model.hf_token=s3cret"]
    monkeypatch.setattr(sys, "argv", ["ftframe", *typed])
    monkeypatch.setattr(runs, "_typed", typed[1:])
    cfg = OmegaConf.create({"seed": 1, "logger": {"api_key": "s3cret"}, "model": {"hf_token": "s3cret"}})
    runs.write_config(tmp_path, cfg)
    runs.write_manifest(tmp_path, {"base": "b"})
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["config.yaml", "manifest.json", "overrides.yaml"]
    for name in written:
        assert "s3cret" not in (tmp_path / name).read_text(), name
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config == {"seed": 1, "logger": {"api_key": "<redacted>"}, "model": {"hf_token": "<redacted>"}}
    overrides = yaml.safe_load((tmp_path / "overrides.yaml").read_text())
    assert overrides == ["seed=1", "+logger.api_key=<redacted>", "+model.hf_token=<redacted>"]
    command = json.loads((tmp_path / "manifest.json").read_text())["command"]
    assert command[:3] == ["ftframe", "--config-name=fit", "seed=1"]


def test_only_the_first_rank_writes_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    runs.write_config(tmp_path, OmegaConf.create({"seed": 1}))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_claimed_by_one_run(tmp_path: Path) -> None:
    with (
        runs.claimed(tmp_path),
        pytest.raises(ConfigError, match="Another process is at work in"),
        runs.claimed(tmp_path),
    ):
        pass
    with runs.claimed(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_samples_have_prompt_reference_and_answers(tmp_path: Path) -> None:
    asked = [Message("system", "s"), Message("user", "q1"), Message("assistant", "r1")]
    runs.write_samples(
        tmp_path / "predictions.jsonl",
        [asked, [Message("user", "fr\u00e5ga")]],
        answers={"baseline": {0: "b0"}, "final": {0: "f0", 1: "f1"}},
    )
    lines = (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert "fr\u00e5ga" in lines[1]
    assert [json.loads(line) for line in lines] == [
        {
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q1"}],
            "reference": "r1",
            "baseline": "b0",
            "final": "f0",
        },
        {"messages": [{"role": "user", "content": "fr\u00e5ga"}], "baseline": None, "final": "f1"},
    ]


def test_manifest_has_the_digest_of_every_artifact(tmp_path: Path) -> None:
    contents = {
        "adapter/a.safetensors": b"weights",
        "adapter/sub/b.json": b"{}",
        "checkpoints/last.ckpt": b"no artifact",
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    runs.write_manifest(tmp_path, {"base": "some/model"})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["sha256"] == {
        name: hashlib.sha256(content).hexdigest() for name, content in contents.items() if name.startswith("adapter")
    }
    assert len(manifest["sha256"]) == 2
    assert manifest["base"] == "some/model"
    assert manifest["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "transformers", "peft", "lightning"} <= {n for n, v in manifest["packages"].items() if v}
