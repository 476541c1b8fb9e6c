"""The checks for authors of plugins: what is sound passes, and each fault is found and named."""

from __future__ import annotations

import textwrap

import pytest
import torch

from ftframe import testing
from ftframe.api import Message
from ftframe.errors import ConfigError, PluginError
from ftframe.registry import prompt_templates


@pytest.fixture
def local(tmp_path):
    """The name of `it` in a file with this code."""

    def write(code: str) -> str:
        file = tmp_path / "mine.py"
        file.write_text(textwrap.dedent(code))
        return f"{file}:it"

    return write


HEAD = (
    "import random, itertools\nfrom ftframe.api import *\nGOOD = [Message('user', 'a?'), Message('assistant', 'b')]\n"
)
COUNTER = "COUNT = itertools.count()\n"

DATASETS = {
    "empty": ("def it(): return {'train': []}", "the split 'train' has no conversation"),
    "bad rows alone": ("def it(): return {'train': [BadRow('f', 'c', 'r')]}", "the split 'train' has no conversation"),
    "text for a row": ("def it(): return {'train': ['a']}", "row 1: the row is of type str; a list of Message"),
    "empty row": ("def it(): return {'train': [GOOD, []]}", "row 2: the conversation has no messages"),
    "number for content": (
        "def it(): return {'train': [[Message('user', 1)]]}",
        "key 'content' is a number; a string",
    ),
    "unknown role": (
        "def it(): return {'train': [[Message('human', 'a')]]}",
        "key 'role' is 'human'; one of",
    ),
    "nothing learnt": (
        "def it(): return {'train': [GOOD[:1]]}",
        "no message that is learnt",
    ),
    "other rows each time": (
        "def it(): return {'train': [[GOOD[0], Message('assistant', str(next(COUNT)))]]}",
        "built a second time, split 'train' has other rows",
    ),
    "other rows each reading": (
        "class Rows:\n    def __iter__(self): yield [GOOD[0], Message('assistant', str(next(COUNT)))]\n"
        "def it(): return {'train': Rows()}",
        "split 'train' read a second time gives other rows",
    ),
}


@pytest.mark.parametrize(("code", "message"), DATASETS.values(), ids=DATASETS)
def test_fault_of_a_dataset_is_found(code, message, local):
    with pytest.raises(AssertionError, match=message):
        testing.check_dataset(local(HEAD + COUNTER + code))


def test_sound_dataset_gives_its_conversations(local):
    rows = "[GOOD, Row(GOOD, 'f, row 2'), BadRow('f, row 3', 'a', 'b')]"
    name = local(f"{HEAD}def it(*, size: int = 1): return {{'train': {rows} * size}}")
    assert len(testing.check_dataset(name, size=2)["train"]) == 4
    with pytest.raises(ConfigError, match=r"Unknown key 'data\.dataset\.siez'\. Did you mean 'size'"):
        testing.check_dataset(name, siez=2)


def test_streamed_dataset_is_read_in_part(local):
    code = "class Rows:\n    def __iter__(self): return itertools.repeat(GOOD)\ndef it(): return {'train': Rows()}"
    assert len(testing.check_dataset(local(HEAD + code))["train"]) == testing.ROWS_READ


def template(body: str) -> str:
    start = f"{HEAD}{COUNTER}class it:\n    def render(self, messages):\n        turns = []\n"
    return start + textwrap.indent(body, " " * 8)


SOUND = """
for turn in messages:
    turns += [Segment(turn.content, turn.supervised), Segment(EOS, turn.supervised, special=True)]
return turns
"""
TEMPLATES = {
    "no list": ("return 'text'", "render gives 'text'; a list of"),
    "other segments each time": (
        f"turns.append(Segment(str(next(COUNT))))\n{SOUND}",
        "rendered a second time, the segments are others",
    ),
    "prompt is learnt": (
        SOUND.replace("turn.content, turn.supervised", "turn.content, True"),
        "supervised is 'How many legs has a spider.*and the learnt turns hold 'Eight.'",
    ),
    "answer is changed": (SOUND.replace("turn.content,", "turn.content.strip() + ' ',"), "supervised is 'Eight. '"),
    "no stop token": (SOUND.replace("EOS, turn.supervised", "EOS, False"), "no supervised special token ends 'Eight.'"),
    "text before the stop token": (
        SOUND.replace(", Segment(EOS", ", Segment('!'), Segment(EOS"),
        "no supervised special token ends 'Eight.'",
    ),
    "prompt depends on the answer": (
        f"turns.append(Segment(str(len(messages[-1].content))))\n{SOUND}",
        "the prompt that is answered is not the beginning of what is learnt",
    ),
}


@pytest.mark.parametrize(("body", "message"), TEMPLATES.values(), ids=TEMPLATES)
def test_fault_of_a_template_is_found(body, message, local):
    assert SOUND.strip() != body.strip()
    with pytest.raises(AssertionError, match=message):
        testing.check_prompt_template(local(template(body)))


def test_sound_template_passes(local):
    testing.check_prompt_template(local(template(SOUND)))


@pytest.mark.parametrize("name", [name for name in prompt_templates.names() if name != "tokenizer"])
def test_built_in_templates_pass(name):
    testing.check_prompt_template(name)


def test_template_may_refuse_examples_but_not_what_it_is_given():
    turns = [Message("user", "a"), Message("user", "b"), Message("assistant", "c")]
    with pytest.raises(testing.DataError, match="The format 'llama2' cannot write the roles"):
        testing.check_prompt_template("llama2", [turns])


METRIC = """
import torch
from torchmetrics import Metric
class it(Metric):
    full_state_update = False
    def __init__(self):
        super().__init__()
        self.add_state("right", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
    def update(self, preds, target):
        self.right += sum(p == t for p, t in zip(preds, target))
        self.count += len(target)
    def compute(self):
        return self.right / self.count
"""
METRICS = {
    "no state": (METRIC.replace("self.add_state", "(lambda n, v, **k: setattr(self, n, v))"), "it has no state"),
    "full state": (METRIC.replace("full_state_update = False", ""), "its class needs full_state_update = False"),
    "forgets nothing": (
        METRIC.replace("super().__init__()", "super().__init__(); self.seen = 0").replace(
            "self.count += len(target)", "self.seen += len(target); self.count += self.seen"
        ),
        r"after reset\(\) the same answers give another value",
    ),
    "does not add up": (
        METRIC.replace(
            'torch.tensor(0), dist_reduce_fx="sum")\n    def', 'torch.tensor(0), dist_reduce_fx="max")\n    def'
        ),
        "two GPUs with half of the answers each give",
    ),
    "several numbers": (METRIC.replace("self.right / self.count", "torch.ones(2)"), "one number is needed"),
}


@pytest.mark.parametrize(("code", "message"), METRICS.values(), ids=METRICS)
def test_fault_of_a_metric_is_found(code, message, local):
    assert code != METRIC
    with pytest.raises(AssertionError, match=message):
        testing.check_metric(local(code))


def test_sound_metric_gives_its_value(local):
    assert testing.check_metric(local(METRIC)) == pytest.approx(2 / 4)
    assert testing.check_metric(local(METRIC), [("a", "a")]) == 1.0


def test_metric_of_tokens_is_fed_with_tokens(local):
    code = METRIC.replace("full_state", "kind = 'tokens'\n    full_state")
    check = "assert all(isinstance(i, int) for ids in [*preds, *target] for i in ids)\n        self.right +="
    assert testing.check_metric(local(code.replace("self.right +=", check))) == pytest.approx(2 / 4)


def test_wrong_kind_is_no_plugin(local):
    with pytest.raises(PluginError, match="its kind is 'ids'; one of text, tokens is needed"):
        testing.check_metric(local(METRIC.replace("full_state", "kind = 'ids'\n    full_state")))


def test_configs_of_a_distribution(distribute, monkeypatch):
    files = {"x_one/conf/data/one.yaml": "dataset: {name: people, size: 8, validation_size: 2}\n"}
    folder = distribute("x-one", {"ftframe.conf": {"one": "x_one.conf"}}, files)
    monkeypatch.syspath_prepend(str(folder))
    assert testing.check_configs_compose("x-one") == ["data=one"]
    (folder / "x_one/conf/data/one.yaml").write_text("dataset: {name: people, siez: 8}\n")
    with pytest.raises(ConfigError, match=r"Unknown key 'data\.dataset\.siez'\. Did you mean 'size'"):
        testing.check_configs_compose("x-one")
    (folder / "x_one/conf/data/one.yaml").write_text("dataset:\n  name: people\n  size: ???\n")
    assert testing.check_configs_compose("x-one") == ["data=one"]
    with pytest.raises(ConfigError, match="int is needed"):
        testing.check_configs_compose("x-one", {"data=one": ["data.dataset.size=many"]})
    with pytest.raises(AssertionError, match="x-two brings no config"):
        testing.check_configs_compose("x-two")


def test_import_time_of_a_distribution(distribute, monkeypatch):
    code = {"x_one.py": "import time\ntime.sleep(0.3)\nprint('noise')\ndef build(): ...\n"}
    folder = distribute("x-one", {"ftframe.datasets": {"one": "x_one:build"}}, code)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(testing.datasets, "__dict__", {"kind": "dataset", "group": "ftframe.datasets"})
    assert 0.3 <= testing.check_import_time("x-one") < 2
    with pytest.raises(AssertionError, match=r"importing what x-one registers takes 0\.\d s, more than 0\.1 s"):
        testing.check_import_time("x-one", limit=0.1)
    with pytest.raises(AssertionError, match="x-two registers no name"):
        testing.check_import_time("x-two")


def test_probe_survives_what_ends_a_process(distribute, monkeypatch):
    from ftframe.probe import probe

    code = {"x_one.py": "def build(): ...\n", "x_two.py": "import os\nos._exit(7)\n"}
    entries = {"ftframe.datasets": {"one": "x_one:build", "two": "x_two:build"}}
    folder = distribute("x-one", entries, code)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(testing.datasets, "__dict__", {"kind": "dataset", "group": "ftframe.datasets"})
    found = probe("x-one")
    assert found["dataset", "one"].trouble == ""
    assert found["dataset", "two"].trouble == "its import ended the process with exit code 7"


def test_probe_ends_what_does_not_end(distribute, monkeypatch):
    from ftframe import probe

    code = {"x_one.py": "def build(): ...\n", "x_two.py": "import time\ntime.sleep(60)\n"}
    folder = distribute("x-one", {"ftframe.datasets": {"one": "x_one:build", "two": "x_two:build"}}, code)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(testing.datasets, "__dict__", {"kind": "dataset", "group": "ftframe.datasets"})
    monkeypatch.setattr(probe, "TIMEOUT", 3.0)
    found = probe.probe("x-one")
    assert found["dataset", "one"].trouble == ""
    assert found["dataset", "two"].trouble == "its import took longer than 3 s"


def test_embedded_tokenizer_needs_no_network():
    assert torch.tensor(testing.embedded_tokenizer().encode("Rona")).numel() > 0
