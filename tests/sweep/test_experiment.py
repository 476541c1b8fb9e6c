"""The best trial's config as a file: what Hydra composes from it is what the trial was."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ftframe import compose
from ftframe.sweep import experiment
from ftframe.sweep.experiment import FILE, Override
from ftframe.sweep.leaderboard import write_leaderboard


def composed(*overrides):
    cfg = compose.compose("fit", overrides)
    return OmegaConf.to_container(cfg, enum_to_str=True)


CASES = {
    "keys": ([], {"optim.lr": 1e-4, "peft.r": 8}, ["optim.lr=1e-4", "peft.r=8"]),
    "groups": ([], {"model": "llama2", "peft": "lora", "quant": "8bit"}, ["model=llama2", "peft=lora", "quant=8bit"]),
    "no adapter": ([], {"peft": "none", "quant": "none"}, ["peft=none", "quant=none"]),
    "quantised otherwise": (
        [],
        {"peft": "qlora", "quant": "8bit", "peft.r": 4},
        ["peft=qlora", "quant=8bit", "peft.r=4"],
    ),
    "a list": ([], {"peft.target_modules": ["q_proj", "v_proj"]}, ["peft.target_modules=[q_proj,v_proj]"]),
    "null and a switch": (
        [],
        {"trainer.gradient_clip_val": None, "data.packing": True},
        ["trainer.gradient_clip_val=null", "data.packing=true"],
    ),
    "a text like a number": (
        [],
        {"model.path": "1e-4", "model.revision": "007"},
        ['model.path="1e-4"', 'model.revision="007"'],
    ),
    "a text like null": ([], {"model.revision": "null"}, ['model.revision="null"']),
    "an added key": ([], {"+trainer.log_every_n_steps": 3}, ["++trainer.log_every_n_steps=3"]),
    "an experiment": (
        [],
        {"experiment": "fine_tune_llama_2", "peft.r": 8},
        ["experiment=fine_tune_llama_2", "peft.r=8"],
    ),
    "an experiment whose group varies": (
        ["experiment=mistral_qlora", "optim.lr=1e-5,1e-4"],
        {"quant": "8bit", "optim.lr": 1e-5},
        ["experiment=mistral_qlora", "quant=8bit", "optim.lr=1e-5"],
    ),
    "what is typed for all": (
        [
            "trainer.max_steps=50",
            "peft=lora",
            "optim.lr=interval(1e-5,1e-3)",
            "hydra.sweeper.x=3",
            "sweep.dir=here",
            "hydra/launcher=x",
        ],
        {"optim.lr": 3e-4},
        ["trainer.max_steps=50", "peft=lora", "optim.lr=3e-4"],
    ),
    "other data": (
        ["data=jsonl", "data.dataset.path='a, b.jsonl'"],
        {"data.max_length": 64, "metrics": "none"},
        ["data=jsonl", "data.dataset.path='a, b.jsonl'", "data.max_length=64", "metrics=none"],
    ),
    "nothing": ([], {}, []),
}


@pytest.mark.parametrize(("typed", "varied", "overrides"), CASES.values(), ids=CASES.keys())
def test_it_composes_to_the_best_trials_config(make_sweep, typed, varied, overrides):
    sweep = make_sweep(overrides=typed)
    sweep.add({"optim.lr": 9.0}, {"val/loss": 2.0})
    sweep.add(varied, {"val/loss": 1.0})
    write_leaderboard(sweep.path)
    assert composed(f"hydra.searchpath=[file://{sweep.path}]", "experiment=best") == composed(*overrides)


def test_the_command_composes_it(make_sweep):
    sweep = make_sweep()
    sweep.add({"peft": "lora", "optim.lr": 1e-4}, {"val/loss": 1.0})
    for name in ("config.yaml", "overrides.yaml"):  # of the run, which stand below the same folder
        (sweep.path / "runs" / "0000" / name).write_text("{}")
    write_leaderboard(sweep.path)
    command = [
        sys.executable,
        "-m",
        "ftframe",
        "fit",
        "--config-dir",
        str(sweep.path),
        "experiment=best",
        "--cfg",
        "job",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    cfg = yaml.safe_load(done.stdout)
    assert (cfg["optim"]["lr"], cfg["peft"]["r"], cfg["quant"]) == (1e-4, 16, None)


def test_its_first_line_is_the_package_and_it_says_whose_it_is(make_sweep):
    sweep = make_sweep("one\nsweep")
    sweep.add({"seed": 3}, {"val/loss": 0.25})
    write_leaderboard(sweep.path)
    lines = (sweep.path / FILE).read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1] == "# Trial 0 of one sweep, the best by val/loss: val/loss 0.25."


def test_a_secret_and_what_no_file_can_say_are_named(make_sweep):
    sweep = make_sweep(overrides=["logger.api_key=<redacted>", "~data.tasks.replay", "hydra.searchpath=[file://more]"])
    sweep.add({"metrics.0.name": "f1", "seed": 1}, {"val/loss": 0.25})
    write_leaderboard(sweep.path)
    text = (sweep.path / FILE).read_text()
    assert yaml.safe_load(text) == {"defaults": ["_self_"], "seed": 1}
    assert "# Left out, since it is a secret: logger.api_key" in text
    for said in ("~data.tasks.replay", "hydra.searchpath=", "metrics.0.name=f1"):
        assert f"# Type it as well, no file can say it: {said}" in text


def test_without_a_best_trial_there_is_none(make_sweep):
    sweep = make_sweep()
    sweep.add({"seed": 1}, {"val/loss": 1.0})
    write_leaderboard(sweep.path)
    assert (sweep.path / FILE).exists()
    sweep = make_sweep("other")
    sweep.add({"seed": 1}, {"val/loss": float("nan")})
    (sweep.path / "experiment").mkdir()
    (sweep.path / FILE).write_text("old")
    write_leaderboard(sweep.path)
    assert not (sweep.path / FILE).exists()


PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="$\\")),
    st.sampled_from(
        [
            "1e-4",
            "1_000",
            "0x1F",
            "yes",
            "off",
            "~",
            "null",
            "1:30",
            ".inf",
            "2026-11-25",
            "",
            " a",
            "#",
            "a: b",
            "=",
            "-",
            "???x",
        ]
    ),
)


@settings(max_examples=100)
@given(st.one_of(PLAIN, st.lists(PLAIN, max_size=3)))
def test_values_are_read_as_they_were(value):
    text = experiment._render([Override("a.b", value)])
    assert OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))["a"]["b"] == value
