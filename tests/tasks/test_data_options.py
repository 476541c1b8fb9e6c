"""Each option of the group `data` on a local file, through the whole command, as `conf/data` has it."""

import csv
import hashlib
import json

import pytest
from omegaconf import OmegaConf

from ftframe.compose import groups

PAIRS = [(f"What is {n} plus {n}?", f"It is {2 * n}.") for n in range(40)]
ROWS = {
    "alpaca": [{"instruction": question, "input": "", "output": answer} for question, answer in PAIRS],
    "csv": PAIRS,
    "guanaco": [{"text": f"<s>[INST] {question} [/INST] {answer} </s>"} for question, answer in PAIRS],
    "jsonl": [{"prompt": question, "completion": answer} for question, answer in PAIRS],
    "table": [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in PAIRS],
    "text": [{"text": f"{question} {answer}"} for question, answer in PAIRS],
}


def write_rows(option, folder):
    """The rows in a file of the kind that the option is for, and the file's name."""
    if option == "csv":
        with (folder / "rows.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("prompt", "completion"), *ROWS[option]])
        return "rows.csv"
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS[option])))
    return "rows.jsonl"


@pytest.mark.slow
@pytest.mark.parametrize("option", ["people", *ROWS])
def test_option_trains(option, ftframe, quick, tmp_path):
    overrides = [override for override in quick if not override.startswith("data.")]
    if option in ROWS:
        overrides.append(f"data.dataset.path={write_rows(option, tmp_path)}")
    done = ftframe("fit", f"data={option}", *overrides, "trainer.max_steps=2", "peft=lora", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "outputs" / "fit").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["final"]["val/loss"] < metrics["baseline"]["val/loss"]
    assert OmegaConf.load(run / "config.yaml").data.dataset.name == ("people" if option == "people" else "table")
    if option in ROWS:
        assert metrics["data"] == {"train_rows": 36, "validation_rows": 4}


FILE = """
from ftframe.api import EOS, Message, Segment

def build(*, count: int = 4):
    return {"train": [[Message("user", f"What is {n}?"), Message("assistant", f"{n}")] for n in range(count)]}

class Bare:
    def render(self, messages):
        pairs = [(Segment(m.content, m.supervised), Segment(EOS, m.supervised, special=True)) for m in messages]
        return [segment for pair in pairs for segment in pair]
"""


@pytest.mark.slow
def test_file_of_ones_own_trains_and_is_named_again_to_evaluate(ftframe, tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    quiet = "trainer.enable_progress_bar=false"
    data = ("data=local", "data.dataset.name=./mine.py:build", "+data.dataset.count=40")
    typed = (*data, "data.template.name=./mine.py:Bare", quiet, "trainer.max_steps=2", "peft=lora")
    done = ftframe("fit", *typed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "outputs" / "fit").iterdir()
    assert json.loads((run / "metrics.json").read_text())["data"] == {"train_rows": 36, "validation_rows": 4}
    origin = f"mine.py (sha256 {hashlib.sha256(FILE.encode()).hexdigest()})"
    plugins = json.loads((run / "manifest.json").read_text())["plugins"]
    assert plugins["dataset ./mine.py:build"] == plugins["prompt_template ./mine.py:Bare"] == origin

    again = ftframe("evaluate", f"run={run}", quiet, cwd=tmp_path)
    assert again.returncode == 2, again.stdout
    assert "say so: data=local data.dataset.name=./mine.py:build" in again.stderr
    again = ftframe("evaluate", f"run={run}", *data, quiet, cwd=tmp_path)
    assert again.returncode == 2, again.stdout
    assert "If you trust that file, say so: template.name=./mine.py:Bare" in again.stderr
    again = ftframe("evaluate", f"run={run}", *data, "template.name=./mine.py:Bare", quiet, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    (evaluated,) = (tmp_path / "outputs" / "evaluate").iterdir()
    plugins = json.loads((evaluated / "manifest.json").read_text())["plugins"]
    assert plugins["dataset ./mine.py:build"] == plugins["prompt_template ./mine.py:Bare"] == origin


@pytest.mark.slow
def test_plain_text_file_trains(ftframe, quick, tmp_path):
    (tmp_path / "documents.txt").write_text("\n\n".join(f"{question}\n{answer}" for question, answer in PAIRS))
    overrides = [override for override in quick if not override.startswith("data.")]
    done = ftframe(
        "fit", "data=text", "data.dataset.path=documents.txt", *overrides, "trainer.max_steps=2", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "outputs" / "fit").iterdir()
    assert json.loads((run / "metrics.json").read_text())["data"] == {"train_rows": 36, "validation_rows": 4}


def test_every_option_is_in_the_table():
    assert set(groups()["data"]) == {"people", "mix", "local", *ROWS}
