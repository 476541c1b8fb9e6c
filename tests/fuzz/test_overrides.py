"""Broken command lines: refused with what was typed, and never a traceback."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ftframe import compose

from .command import FACTOR, check, explore, run
from .strategies import TYPED_VALUES, keys, overrides

slow = pytest.mark.slow
ON_ROWS = ("data=jsonl", "data.dataset.path=rows.jsonl", "trainer.enable_progress_bar=false")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with rows to train on."""
    rows = "".join(f'{{"prompt": "What is {n}?", "completion": "It is {n}."}}\n' for n in range(20))
    (tmp_path / "rows.jsonl").write_text(rows)
    return tmp_path


@pytest.fixture
def up_to_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ftframe fit` ends where all is checked and the run folder would be made."""

    def leave(_: str) -> None:
        raise SystemExit(0)

    monkeypatch.setattr("ftframe.tasks.fit.runs.new_run_folder", leave)


@slow
def test_odd_texts(folder: Path, up_to_the_folder: None) -> None:
    known = sorted(keys(OmegaConf.to_container(compose.compose("fit", ["data=jsonl"]))))
    assert len(known) > 100
    tally = explore(120, overrides(known), lambda typed: check(run("fit", *ON_ROWS, *typed, cwd=folder), folder))
    assert tally[2] > 60


@slow
def test_every_key_takes_only_what_it_is_for(folder: Path, up_to_the_folder: None) -> None:
    """Each key of `fit`, libraries' too, with values of every type."""
    known = sorted(keys(OmegaConf.to_container(compose.compose("fit", ["data=jsonl"]))))
    pairs = [(key, value) for key in known for value in TYPED_VALUES]
    chosen = random.Random(0 if FACTOR == 1 else None).sample(pairs, min(len(pairs), int(40 * FACTOR)))
    chosen += [("seed", "7"), ("data.batch_size", "2"), ("trainer.max_epochs", "2")]  # and some that are right
    tally = Counter(
        check(
            run("fit", *(item for item in ON_ROWS if not item.startswith(f"{key}=")), f"{key}={value}", cwd=folder),
            folder,
        )
        for key, value in chosen
    )
    print(f"{tally.total()} cases: {dict(tally)}")
    assert set(tally) == {0, 2}


CASES: dict[str, tuple[tuple[str, ...], str]] = {
    "null logger": (("logger=null",), "logger"),
    "null peft": (("peft=null",), "peft"),
    "true quant": (("quant=true",), "quant=true"),
    "text callback": (("+callbacks.a=text",), "callbacks.a=text: a node of keys is needed"),
    "another command": (("command=predict",), "command=predict in a config of 'fit'"),
    "no command": (("command=null",), "command"),
    "command left out": (("~command",), "command=None in a config of 'fit'"),
    "another config": (("--config-name=predict",), "--config-name and --config-path swap the command's own"),
    "another folder": (("--config-path=x",), "--config-name and --config-path swap the command's own"),
    "unknown flag": (("--nope",), "unrecognized arguments: --nope. `--hydra-help` lists the flags"),
    "flag without a value": (("--config-dir",), "argument --config-dir"),
    "flag with a value": (("--help=x",), "argument --help"),
    "two flags": (("--run", "--multirun"), "Only one of --run"),
    "reference to itself": (("seed=${seed}",), "seed"),
    "deep": (("data.dataset.path=" + "[" * 2000 + "]" * 2000,), "data.dataset.path="),
    "run folder of Hydra below a file": (("hydra.run.dir=rows.jsonl/x",), "hydra.run.dir=rows.jsonl/x"),
    "output below a file": (("output_dir=rows.jsonl/x",), "output_dir=rows.jsonl/x: the folder cannot be made"),
    "home of nobody": (("output_dir='~nobody-there/x'",), "output_dir=~nobody-there/x: the folder cannot be made"),
    "data in the home of nobody": (("data.dataset.path='~nobody-there/x.jsonl'",), "data.dataset.path=~nobody-there/x"),
    "data of too long a name": ((f"data.dataset.path={'x' * 5000}.jsonl",), "File name too long"),
    "model of too long a name": ((f"model.path={'x' * 5000}",), "File name too long"),
    "checkpoint of too long a name": ((f"ckpt_path={'x' * 5000}",), "File name too long"),
    "cache of too long a name": ((f"data.cache_dir={'x' * 5000}",), "File name too long"),
    "model in no package": (("model.path='pkg://os/x'",), "model.path=pkg://os/x: no package 'os' is installed"),
    "number for columns": (("data.dataset.columns=inf",), "data.dataset.columns=inf: a node of keys is needed"),
    "list for columns": (("data.dataset.columns=[a]",), "Error merging override data.dataset.columns=[a]"),
    "text rate": (("optim.lr=fast",), "optim: TypeError: "),
    "rate that is none": (("optim.lr=nan",), "optim: ValueError: Invalid learning rate: nan"),
    "node as weight decay": (("optim.weight_decay={a: 1}",), "optim: TypeError: "),
    "attention that is none": (("model.attn_implementation=sdpaa",), "model.attn_implementation=sdpaa"),
}  # fmt: skip


@pytest.mark.parametrize(("typed", "message"), CASES.values(), ids=CASES)
def test_a_broken_command_line_is_refused(typed: tuple[str, ...], message: str, folder: Path) -> None:
    outcome = run("fit", *ON_ROWS, "trainer.max_steps=1", *typed, cwd=folder)
    assert check(outcome, folder) == 2
    assert message in outcome.err
    assert sorted(path.name for path in folder.iterdir()) == ["rows.jsonl"]
