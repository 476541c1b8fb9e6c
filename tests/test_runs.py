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
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
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
    folder = runs.create_run_folder(str(tmp_path / "a" / "b"))
    assert folder == (tmp_path / "a" / "b").resolve()
    assert folder.is_dir()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert runs.create_run_folder(str(tmp_path / "another")) == folder
    assert not (tmp_path / "another").exists()


def test_other_rank_without_a_first_takes_what_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert runs.create_run_folder(str(tmp_path / "given")) == tmp_path / "given"
    assert not (tmp_path / "given").exists()


def test_empty_folder_may_exist(tmp_path: Path) -> None:
    assert runs.create_run_folder(str(tmp_path)) == tmp_path.resolve()


@pytest.mark.parametrize("hidden", [False, True], ids=["file", "hidden file"])
def test_folder_that_holds_something_is_refused(hidden: bool, tmp_path: Path) -> None:
    kept = tmp_path / (".kept" if hidden else "kept")
    kept.write_text("kept")
    with pytest.raises(ConfigError, match=r"^output_dir=.* exists already and nothing is overwritten\."):
        runs.create_run_folder(str(tmp_path))
    assert kept.read_text() == "kept"


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("kept")
    with pytest.raises(ConfigError, match="exists already"):
        runs.create_run_folder(str(tmp_path / "run"))


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


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "there and empty"])
def test_of_runs_that_ask_for_one_folder_one_gets_it(is_there: bool, tmp_path: Path) -> None:
    for attempt in range(20):
        folder = tmp_path / str(attempt) / "run"
        if is_there:
            folder.mkdir(parents=True)
        got = all_at_once(20, lambda folder=folder: runs.create_run_folder(str(folder)))  # type: ignore[misc]
        assert [item for item in got if isinstance(item, Path)] == [folder]
        refused = [item for item in got if isinstance(item, runs.FolderTakenError)]
        assert len(refused) == 19
        assert str(refused[0]).startswith(f"output_dir={folder} exists already and nothing is overwritten.")


@pytest.mark.parametrize(
    "output_dir", ["file/run", "\0", "x" * 300, "~nobody-of-that-name/x"], ids=["below a file", "NUL", "long", "home"]
)
def test_folder_that_cannot_be_made_is_refused(
    output_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"(?s)^output_dir=.*: the folder cannot be made: "):
        runs.create_run_folder(output_dir)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_shown_is_relative_below_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert runs.shown(tmp_path / "outputs" / "x") == Path("outputs/x")
    assert runs.shown(tmp_path.parent / "y") == tmp_path.parent / "y"


SECRETS = (
    "api_key",
    "apikey",
    "wandb_api_key",
    "hf_token",
    "token",
    "access_token",
    "auth_token",
    "HF_TOKEN",
    "password",
    "db_password",
    "secret",
    "client_secret",
)
NOT_SECRETS = (
    "max_new_tokens",
    "tokenizer",
    "tokens_per_second",
    "stop_token_ids",
    "pad_token_id",
    "keyword",
    "monkey",
    "secretary",
)


@pytest.mark.parametrize("key", SECRETS)
def test_secrets_are_redacted(key: str) -> None:
    assert runs.redact({key: "s3cret"}) == {key: "<redacted>"}
    assert runs.redact({"a": [{"b": {key: "s3cret"}}]}) == {"a": [{"b": {key: "<redacted>"}}]}
    assert runs.redact({key: ["s3cret", "other"]}) == {key: ["<redacted>", "<redacted>"]}
    assert runs.redact_overrides([f"{key}=s3cret", f"+logger.{key}=a=b", "seed=1"]) == [
        f"{key}=<redacted>",
        f"+logger.{key}=<redacted>",
        "seed=1",
    ]


@pytest.mark.parametrize("key", NOT_SECRETS)
def test_what_is_no_secret_is_kept(key: str) -> None:
    assert runs.redact({key: "value", "list": [{key: 3}]}) == {key: "value", "list": [{key: 3}]}
    assert runs.redact_overrides([f"{key}=value"]) == [f"{key}=value"]


@pytest.mark.parametrize("value", [None, ""], ids=["null", "empty"])
def test_absent_secret_is_seen_to_be_absent(value: str | None) -> None:
    assert runs.redact({"token": value}) == {"token": value}


def test_files_of_a_run_hold_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["--config-name=fit", "seed=1", "+logger.api_key=s3cret", "+model.hf_token=s3cret"]
    monkeypatch.setattr(sys, "argv", ["ftframe", *typed])
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


def test_write_json_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    runs.write_json(path, {"a": "x" * 1000})
    runs.write_json(path, {"b": 1, "where": Path("p")})
    assert json.loads(path.read_text()) == {"b": 1, "where": "p"}
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_write_json_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.json"
    runs.write_json(path, {"a": 1})
    circular: dict[str, object] = {}
    circular["self"] = circular
    with pytest.raises(ValueError, match="Circular"):
        runs.write_json(path, circular)

    def full(*_: object, **__: object) -> int:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        runs.write_json(path, {"a": 2})
    assert json.loads(path.read_bytes()) == {"a": 1}


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


@given(st.binary(max_size=300))
def test_sha256_is_hashlibs(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "digest"
    path.write_bytes(content)
    assert runs.sha256(path) == hashlib.sha256(content).hexdigest()


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
