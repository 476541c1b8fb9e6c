"""Which run `ckpt_path` means, and what of its overrides is taken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from ftframe.errors import ConfigError
from ftframe.resumption import RUNS, find_resumption, refuse_changes, with_overrides_of_run


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FTFRAME_RUN_DIR", raising=False)


def make_run(path: Path, overrides: object = ("peft=lora", "optim.lr=1e-3"), age: float = 0) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump({"output_dir": str(path), "optim": {"lr": 0.001}, "seed": 0}))
    (path / "overrides.yaml").write_text(yaml.safe_dump(list(overrides) if isinstance(overrides, tuple) else overrides))
    os.utime(path / "config.yaml", (1e9 - age, 1e9 - age))
    return path


UNCHANGED = {
    "no ckpt_path": ["peft=lora"],
    "null": ["ckpt_path=null", "peft=lora"],
    "a grid": ["-m", "ckpt_path=last", "peft=lora,none"],
    "no such folder": ["ckpt_path=nothing"],
    "a new run from another": ["ckpt_path=outputs/fit/a", "output_dir=b"],
}


@pytest.mark.parametrize("arguments", UNCHANGED.values(), ids=UNCHANGED)
def test_arguments_stay_as_they_are(arguments: list[str]) -> None:
    make_run(RUNS / "a")
    assert with_overrides_of_run(arguments) == arguments


def test_a_run_brings_its_overrides_and_typed_ones_win() -> None:
    make_run(RUNS / "a", ("peft=lora", "+data.x=1", "optim.lr=1e-3", "ckpt_path=null", "output_dir=elsewhere"))
    run = f"'{RUNS / 'a'}'"
    found = with_overrides_of_run(["ckpt_path=outputs/fit/a", "checkpoint.keep=3", "optim.lr=2e-3"])
    assert found == [
        *("peft=lora", "+data.x=1", "checkpoint.keep=3", "optim.lr=2e-3"),
        *(f"ckpt_path={run}", f"output_dir={run}"),
    ]


def test_last_is_the_newest_run() -> None:
    make_run(RUNS / "z", age=100)
    make_run(RUNS / "a", ("seed=7",))
    assert with_overrides_of_run(["ckpt_path=last"])[0] == "seed=7"


def test_last_without_a_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no run in outputs/fit"):
        with_overrides_of_run(["ckpt_path=last"])


def test_last_with_a_folder_begins_there_and_goes_on_there() -> None:
    command = ["output_dir=mine", "ckpt_path=last", "seed=3"]
    assert with_overrides_of_run(command) == ["output_dir=mine", "seed=3", "ckpt_path=null"]
    make_run(Path("mine"), ("output_dir=mine", "ckpt_path=last", "seed=3"))
    assert with_overrides_of_run(command) == ["seed=3", "ckpt_path='mine'", "output_dir='mine'"]


def test_other_ranks_have_all_overrides_already(monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(RUNS / "a")
    monkeypatch.setenv("FTFRAME_RUN_DIR", "outputs/fit/a")
    assert with_overrides_of_run(["ckpt_path=outputs/fit/a"]) == ["ckpt_path=outputs/fit/a"]


CODE = {
    "local file": "data.dataset.name=./evil.py:build",
    "local file within a node": "data.dataset={name: ./evil.py:build}",
    "local file, escaped": "data.dataset.name=./evil.py\\:build",
    "local file, quoted": "data.dataset.name='./evil.py:build'",
    "local file in a list": "metrics=[{name: './evil.py:build'}]",
    "remote code": "model.trust_remote_code=true",
    "remote code, in other words": "model.trust_remote_code=on",
    "remote code, as a number": "++model.trust_remote_code=1",
    "remote code within a node": "model={trust_remote_code: True, path: x}",
    "an object of Hydra's": "+hydra.callbacks.evil={_target_: os.mkdir, path: canary}",
    "a group of Hydra's": "hydra/launcher=local",
    "a group in a package of Hydra's": "+logger@hydra.callbacks.evil=csv",
    "a search path": "hydra.searchpath=[file:///tmp]",
    "an object": "+callbacks.evil={_target_: lightning.pytorch.callbacks.Timer}",
    "the name of an object": "logger._target_=lightning.pytorch.loggers.CSVLogger",
    "the environment": "logger.save_dir=${oc.env:HOME}/x",
    "the environment, escaped": "logger.save_dir=$\\{oc.env\\:HOME\\}/x",
    "the environment, nested": "logger.save_dir=${oc.${output_dir}:HOME}",
    "a place to write to": "logger.save_dir=/tmp/x",
    "a place above": "data.cache_dir='${output_dir}/../../x'",
    "a flag": "--config-dir=/tmp",
    "a grid": "optim.lr=1e-3,1e-4",
    "a secret that is not there": "+logger={api_key:<redacted>,project:x}",
    "no override": "no equals sign",
}


@pytest.mark.parametrize("override", CODE.values(), ids=CODE)
def test_code_that_a_folder_names_must_be_typed_again(override: str) -> None:
    make_run(Path("theirs"), (override, "seed=1"))
    with pytest.raises(ConfigError, match="a folder may not say what code is run"):
        with_overrides_of_run(["ckpt_path=theirs"])
    if "=" in override and not override.startswith("-"):
        assert override in with_overrides_of_run(["ckpt_path=theirs", override])


PLAIN = (
    *("~peft.r", "model.trust_remote_code=false", "logger.save_dir=${output_dir}/x", "data.x='a:b, c'", "logger=null"),
    *("optim.betas=[0.9,0.99]", "+data.tasks.a={dataset:{name:people},weight:2.0}", "trainer.max_steps=-1"),
)


def test_plain_values_need_not_be_typed_again() -> None:
    make_run(Path("run"), PLAIN)
    assert with_overrides_of_run(["ckpt_path=run"])[: len(PLAIN)] == list(PLAIN)


@pytest.mark.parametrize("content", ["peft=lora", {"a": 1}, [1]], ids=str)
def test_damaged_overrides_are_refused(content: object) -> None:
    make_run(Path("run"), content)
    with pytest.raises(ConfigError, match=r"overrides\.yaml is no list of overrides"):
        with_overrides_of_run(["ckpt_path=run"])


def test_a_redacted_secret_is_left_out() -> None:
    make_run(Path("run"), ("+logger.api_key=<redacted>", "seed=1"))
    assert with_overrides_of_run(["ckpt_path=run"])[:1] == ["seed=1"]


def test_what_is_gone_on_with(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    here = find_resumption("run", "run")
    assert (here.run, here.source, here.complete) == (run, run, False)
    branch = find_resumption("run", "other")
    assert (branch.run, branch.source) == (None, run)
    (run / "x.ckpt").write_text("")
    assert find_resumption("run/x.ckpt", "other").source == run / "x.ckpt"
    assert find_resumption(None, "run") == find_resumption(None, "other")
    (run / "manifest.json").write_text("{}")
    assert find_resumption("run", str(run)).complete and not find_resumption("run", "other").complete
    with pytest.raises(ConfigError, match=r"ckpt_path=typo does not exist\. Give the folder of a `ftframe fit`"):
        find_resumption("typo", "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"holds no config\.yaml, so it is no run folder"):
        find_resumption("empty", "run")


CHANGES = {
    "nothing": ({}, None),
    "what changes no number": ({"checkpoint": {"keep": 5}, "data": {"num_workers": 2}, "ckpt_path": "x"}, None),
    "a value": ({"optim": {"lr": 0.01}}, r"  optim\.lr: 0\.001 -> 0\.01"),
    "a key that is new": ({"peft": {"r": 8}}, r"  peft\.r: \(not there\) -> 8"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_changes_are_named(change: dict[str, object], message: str | None) -> None:
    run = make_run(Path("run"))
    cfg = OmegaConf.create({"output_dir": "run", "optim": {"lr": 0.001}, "seed": 0, **change})
    if message is None:
        refuse_changes(run, cfg)
        return
    with pytest.raises(ConfigError, match=message):
        refuse_changes(run, cfg)


def test_a_run_folder_may_be_moved() -> None:
    run = make_run(Path("run"))
    saved = yaml.safe_load((run / "config.yaml").read_text())
    saved["x"] = f"{saved['output_dir']}/sub"
    (run / "config.yaml").write_text(yaml.safe_dump(saved))
    moved = run.rename("moved")
    cfg = OmegaConf.create({"output_dir": "moved", "optim": {"lr": 0.001}, "seed": 0, "x": "moved/sub"})
    refuse_changes(moved, cfg)
    (moved / "config.yaml").write_text("{broken")
    with pytest.raises(ConfigError, match=r"config\.yaml cannot be read"):
        refuse_changes(moved, cfg)


def test_a_short_name_of_a_folder_is_not_sought_in_other_values() -> None:
    make_run(Path("a"))
    saved = yaml.safe_load(Path("a/config.yaml").read_text())
    Path("a/config.yaml").write_text(yaml.safe_dump({**saved, "output_dir": "a", "x": "auto", "y": "a/b", "z": "a"}))
    cfg = {**saved, "output_dir": str(Path("a").resolve()), "x": "auto", "y": f"{Path('a').resolve()}/b"}
    refuse_changes(Path("a"), OmegaConf.create({**cfg, "z": cfg["output_dir"]}))
