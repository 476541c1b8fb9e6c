"""The command line as a user types it: exit codes and messages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from processes import run_module

from ftframe import __version__
from ftframe.cli import _QUOTED, CONFIGURED, PLAIN, _quote_prompt, main

HEAVY = ("torch", "transformers", "lightning", "peft", "datasets", "bitsandbytes", "torchmetrics", "accelerate")
ROW = '{"question": "Who?", "answer": "Ada"}\n'


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_module("ftframe", *arguments, cwd=cwd, timeout=120)


LIGHT = {
    "nothing": ((), "usage: ftframe <command>"),
    "--help": (("--help",), "usage: ftframe <command>"),
    "help": (("help",), "usage: ftframe <command>"),
    "--version": (("--version",), __version__),
    "fit --help": (("fit", "--help"), "== Config groups (group=option) =="),
    "evaluate --help": (("evaluate", "--help"), "== Configuration (key.key=value) =="),
    "predict --help": (("predict", "--help"), "== Configuration (key.key=value) =="),
    "fit --cfg job": (("fit", "--cfg", "job"), "\n  _target_: peft.LoraConfig\n"),
    "an experiment": (("fit", "experiment=fine_tune_llama_2", "--cfg", "job"), "NousResearch/Llama-2-7b-chat-hf"),
}


@pytest.mark.parametrize(("arguments", "shown"), LIGHT.values(), ids=LIGHT)
def test_looking_imports_no_library(arguments: tuple[str, ...], shown: str, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom ftframe import cli\n"
        f"sys.argv = ['ftframe', *{arguments!r}]\n"
        "try:\n    cli.main()\n"
        "except SystemExit as leaving:\n    code = leaving.code\n"
        f"heavy = sorted({set(HEAVY)!r} & set(sys.modules))\n"
        "print('heavy:', heavy, 'code:', code, 'ours:', 'ftframe.cli' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    output, _, last = done.stdout.rstrip().rpartition("\n")
    assert last == "heavy: [] code: 0 ours: True"
    assert shown in output
    assert list(tmp_path.iterdir()) == []


def test_module_runs_as_the_command(tmp_path: Path) -> None:
    done = run("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")


def test_usage_names_every_command(tmp_path: Path) -> None:
    usage = run("--help", cwd=tmp_path).stdout
    for name in (*CONFIGURED, *PLAIN):
        assert f"\n  {name} " in usage, name
    assert {*CONFIGURED, *PLAIN} == {
        "fit",
        "preview",
        "plan",
        "evaluate",
        "predict",
        "doctor",
        "leaderboard",
        "plugins",
    }


@pytest.mark.parametrize("line", ["--help", "--version", "fit --help", "fit --cfg job", "plugins"])
def test_a_reader_that_leaves_early_is_no_error(line: str, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "ftframe", *line.split()]
    done = subprocess.run(
        command, cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_pipe_that_breaks_elsewhere_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def fail(arguments: list[str]) -> int:
        raise BrokenPipeError("a worker is gone")

    monkeypatch.setattr(sys, "argv", ["ftframe"])
    monkeypatch.setattr("ftframe.cli._dispatch", fail)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    assert "BrokenPipeError: a worker is gone" in capsys.readouterr().err


BAD = {
    "fit peft.rr=8": ("error: Unknown key 'peft.rr'. Did you mean 'r'?", "Allowed in 'peft': "),
    "fit modle=llama2": ("error: Unknown key 'modle'. Did you mean 'model'?", "Allowed: "),
    "fit model=lama2": ("error: Unknown option 'model=lama2'. Did you mean 'llama2'?", "Options of model: llama2, "),
    "fit data.max_lenght=9": ("error: Unknown key 'data.max_lenght'. Did you mean 'max_length'?", "Allowed in 'data'"),
    "fit +data.max_lenght=9": ("error: Unknown key 'data.max_lenght'. Did you mean 'max_length'?", "Allowed: dataset"),
    "fit data.max_length=abc": ("error: Error merging override data.max_length=abc", "Value 'abc' of type 'str' could"),
    "fit model.init=foo": ("error: Error merging override model.init=foo", "one of [pretrained, random]"),
    "fti": (
        "error: Unknown command 'fti'. Did you mean 'fit'?",
        "Commands: fit, preview, plan, evaluate, predict, doctor, leaderboard, plugins.",
    ),
    "fit data=jsonl": ("error: No value for data.dataset.path.", "Set it on the command line: data.dataset.path="),
    "fit peft=qlora quant=none": ("error: peft=qlora is LoRA on a quantised base", "Use quant=4bit or quant=8bit"),
    "fit peft=none quant=4bit": ("error: peft=none trains every weight", "Use quant=none, or an adapter"),
    "fit data=[": ("error: ", "'['"),
    "fit hydra.searchpath=[": ("error: ", "'['"),
    "fit optim._target_=os.system": ("error: optim._target_=os.system is not allowed", "torch.optim"),
    "evaluate": ("error: No value for run.", "run=..."),
    "doctor now": ("error: ftframe doctor takes no arguments, and was given now.",),
    "plugins check nothing": ("error: No installed distribution 'nothing' adds anything to ftframe.", "Installed: "),
    "predict run=x promt=hello": ("error: Unknown key 'promt'. Did you mean 'prompt'?", "Allowed: "),
}


def assert_one_error(done: subprocess.CompletedProcess[str], messages: tuple[str, ...], cwd: Path) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert (done.stdout + done.stderr).count("error:") == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "full_key" not in done.stderr  # omegaconf's own appendix
    for message in messages:
        assert message in done.stderr
    assert not (cwd / "outputs").exists()


@pytest.mark.parametrize(("line", "messages"), BAD.items(), ids=BAD)
def test_bad_input_is_one_error(line: str, messages: tuple[str, ...], tmp_path: Path) -> None:
    done = run(*line.split(), cwd=tmp_path)
    assert_one_error(done, messages, tmp_path)
    assert len(done.stderr.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


BAD_LATER = {
    "fit +peft.rr=8": ("error: Unknown key 'peft.rr'. Did you mean 'r'?",),
    "fit trainer.max_epochs=abc": ("error: trainer.max_epochs=abc: int or null is needed.",),
    "fit data=jsonl data.dataset.path=missing.jsonl": (
        "error: data.dataset.path=missing.jsonl: there is no such file in '.'",
        "Did you mean 'missin.jsonl'?",
    ),
    "fit data=jsonl data.dataset.path=empty.jsonl": ("error: data.dataset.path=empty.jsonl: the file holds no rows.",),
    "fit data=jsonl data.dataset.path=missin.jsonl data.dataset.columns.prompt=quesion": (
        "data.dataset.columns",
        "Did you mean 'question'?",
    ),
    "fit data=jsonl data.dataset.path=bad.jsonl": (
        "error: train: 1 of 3 rows is bad. The first:",
        "bad.jsonl, row 3: column 'completion' is null; a string is needed",
    ),
    "fit data=csv data.dataset.path=bad.csv": (
        "error: train: 1 of 2 rows is bad. The first:",
        "bad.csv, row 2: column 'completion' is empty; text that is learnt is needed",
    ),
    "fit data=table data.dataset.path=missin.jsonl data.dataset.format=aplaca": (
        "error: data.dataset.format=aplaca: there is no such format. Did you mean 'alpaca'?",
    ),
    "fit data=jsonl data.dataset.path=missin.jsonl data.dataset.streaming=true": (
        "error: data.dataset.streaming=true: ",
        "data.dataset.validation_rows=N",
    ),
    "fit data.dataset.siez=3": ("error: Unknown key 'data.dataset.siez'. Did you mean 'size'?",),
    "fit +data.dataset.siez=3": ("error: Unknown key 'data.dataset.siez'. Did you mean 'size'?",),
    "fit data=local data.dataset.name=./mine.py:build": (
        "error: data.dataset.name=./mine.py:build: there is no file mine.py below ",
        "Did you mean 'mini.py'?",
    ),
    "fit data=local data.dataset.name=./mini.py:build": (
        "name=./mini.py:build: mini.py has no 'build'. Did you mean 'built'?",
    ),
    "fit data=local data.dataset.name=./mini.py:built +data.dataset.siez=3": (
        "error: Unknown key 'data.dataset.siez'. Did you mean 'size'?",
        "data=local starts without the keys of another dataset.",
    ),
    "fit data=local data.dataset.name=./mini.py:rows": ("./mini.py:rows cannot be used: it is of type list",),
    "fit data.template.name=lama2": ("error: Unknown prompt_template 'lama2'. Did you mean 'llama2'?", "Installed: "),
}


@pytest.mark.slow
@pytest.mark.parametrize(("line", "messages"), BAD_LATER.items(), ids=BAD_LATER)
def test_bad_input_that_the_libraries_judge(line: str, messages: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "missin.jsonl").write_text(ROW * 4)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bad.jsonl").write_text(
        '{"prompt": "u", "completion": "a"}\n' * 2 + '{"prompt": "u", "completion": null}\n'
    )
    (tmp_path / "bad.csv").write_text("prompt,completion\nu,None\nu,\n")
    (tmp_path / "mini.py").write_text("rows = []\ndef built(*, size: int = 3): raise AssertionError('called')\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    done = run(*line.split(), cwd=tmp_path)
    assert_one_error(done, messages, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


QUOTED = {
    "word": ("prompt=hello", 'prompt="hello"'),
    "comma and colon": ("prompt=a, b: c=d", 'prompt="a, b: c=d"'),
    "brackets": ("prompt=[1] {x} (y)", 'prompt="[1] {x} (y)"'),
    "system too": ("system=be brief, please", 'system="be brief, please"'),
    "empty": ("prompt=", 'prompt=""'),
    "null stays null": ("prompt=null", "prompt=null"),
    "apostrophe inside": ("prompt=what's up", 'prompt="what\'s up"'),
    "apostrophe in front": ("prompt='tis late", 'prompt="\'tis late"'),
    "double quotes inside": ('prompt=say "hi"', r'prompt="say \"hi\""'),
    "quote in front only": ('prompt="hi" he said', r'prompt="\"hi\" he said"'),
    "quoted already": ('prompt="a, b"', 'prompt="a, b"'),
    "quoted already, single": ("prompt='a, \"b'", "prompt='a, \"b'"),
    "quoted already, with a quote in it": (r'prompt="a \" b"', r'prompt="a \" b"'),
    "backslash": (r"prompt=a\b", r'prompt="a\b"'),
    "backslash at the end": ("prompt=a\\", 'prompt="a\\\\"'),
    "backslash before a quote": (r"prompt=a\"b", r'prompt="a\\\"b"'),
    "another key": ("seed=1,2", "seed=1,2"),
    "another key with quotes": ('input="a b"', 'input="a b"'),
    "no value": ("prompt", "prompt"),
    "flag": ("--cfg", "--cfg"),
}


@pytest.mark.parametrize(("argument", "expected"), QUOTED.values(), ids=QUOTED)
def test_quote_prompt(argument: str, expected: str) -> None:
    assert _quote_prompt(argument) == expected
    assert _quote_prompt(expected) == expected  # a rank that is started with the quoted line quotes it no further


@given(st.text(st.one_of(st.sampled_from("\"'\\ ,:=[]{}()\n$"), st.characters(exclude_categories=["Cs"]))))
@example("")
@example("\\")
@example('\\"')
@example('"')
@example('a\\\\"\\"b\\\\')
@example("'tis")
@example("true")
@example("1e3")
@example("line\nline")
@example("what is ${HOME}?")
@example("a\\\\${b} \\")
def test_prompt_reaches_the_config_unchanged(prompt: str) -> None:
    override = OverridesParser.create().parse_override(_quote_prompt(f"prompt={prompt}"))
    if prompt == "null":
        assert override.value() is None
    elif _QUOTED.fullmatch(prompt):
        assert override.input_line == f"prompt={prompt}"
    elif prompt == "???":
        pytest.skip("OmegaConf's own mark for a missing value")
    else:
        node = OmegaConf.create({"prompt": override.value()})
        assert OmegaConf.to_container(node, resolve=True) == {"prompt": prompt}
