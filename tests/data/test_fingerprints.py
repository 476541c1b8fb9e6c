from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ftframe.data import fingerprints
from ftframe.data.fingerprints import fingerprint_source, fingerprint_template, fingerprint_tokenizer
from ftframe.data.prompt_templates import Alpaca, ChatML, Llama2, Llama3, TokenizerTemplate

Write = Callable[..., Any]

PLUGIN = {
    "__init__.py": "",
    "templates.py": "from acme.bases import Base\n\nclass Shout(Base):\n    'Writes loudly.'\n",
    "bases.py": "from .marks import STOP\n\nclass Base:\n    def render(self, messages):\n        return STOP\n",
    "marks.py": "STOP = '!'\n",
    "other.py": "from acme import templates\nLOUD = True\n",
}


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a package `acme` into a folder of its own, each file changed as asked, and imports its template."""

    def write(folder: str, changes: Mapping[str, tuple[str, str]] = {}) -> Any:
        for name in [name for name in sys.modules if name.partition(".")[0] == "acme"]:
            monkeypatch.delitem(sys.modules, name)
        package = tmp_path / folder / "acme"
        package.mkdir(parents=True)
        for name, text in PLUGIN.items():
            (package / name).write_text(text.replace(*changes.get(name, ("", ""))))
        monkeypatch.syspath_prepend(package.parent)
        return importlib.import_module("acme.templates").Shout

    return write


def of(kind: Any, **arguments: Any) -> str:
    return fingerprint_template(kind(), name="shout", arguments=arguments)


def test_the_same_package_elsewhere_has_the_same_hash(imported: Write) -> None:
    first = imported("a")
    hashes = of(first), fingerprint_source(first)
    second = imported("b")
    assert second is not first
    assert (of(second), fingerprint_source(second)) == hashes
    assert all(len(value) == 64 for value in hashes)


CHANGES = [
    ("its-own-module", "templates.py", ("loudly", "Loudly")),
    ("its-base", "bases.py", ("return STOP", "return STOP ")),
    ("a-helper-of-its-base", "marks.py", ("!", "?")),
]


@pytest.mark.parametrize(("file", "change"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_one_character_of_the_source_changes_the_hash(imported: Write, file: str, change: tuple[str, str]) -> None:
    first = imported("a")
    hashes = of(first), fingerprint_source(first)
    second = imported("b", {file: change})
    assert of(second) != hashes[0]
    assert fingerprint_source(second) != hashes[1]


def test_a_module_that_is_not_imported_does_not_change_the_hash(imported: Write) -> None:
    first = of(imported("a"))
    assert of(imported("b", {"other.py": ("True", "False")})) == first


def test_name_arguments_class_and_jinja_change_the_hash(llama2_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(llama2_folder)
    jinja = []
    for text in ("{{ messages }}", "{{  messages }}"):
        tokenizer.chat_template = text
        template = TokenizerTemplate(tokenizer)
        jinja.append(fingerprint_template(template, name="tokenizer", arguments={}))
    built_in = [fingerprint_template(kind(), name="x", arguments={}) for kind in (Alpaca, ChatML, Llama2, Llama3)]
    named = fingerprint_template(Alpaca(), name="y", arguments={})
    argued = [fingerprint_template(Alpaca(), name="x", arguments={"a": value}) for value in (1, "1", None)]
    every = [*jinja, *built_in, named, *argued]
    assert len(set(every)) == len(every)
    either_order = [{"a": 1, "b": 2}, {"b": 2, "a": 1}]
    assert len({fingerprint_template(Alpaca(), name="x", arguments=given) for given in either_order}) == 1


def test_a_helper_module_of_the_frame_is_part_of_a_template(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    read = fingerprints.module_source
    monkeypatch.setattr(fingerprints, "module_source", lambda name: asked.append(name) or read(name))
    of(Alpaca)
    assert {"ftframe.data.tokenizer_template", "ftframe.data.chat_layout", "ftframe.data.chat_jinja"} <= set(asked)
    assert not {"ftframe.api", "ftframe.errors"} & set(asked)


def defined(source: str) -> Any:
    """What a source without a file defines as `thing`, as a notebook's cell does."""
    namespace: dict[str, Any] = {"__name__": "a_cell"}
    exec(compile(source, "<cell>", "exec"), namespace)
    return namespace["thing"]


CODE = "def thing(x, y=1):\n    return [x in {'a', 'b', 'c'} for _ in range(y)]\n"
CLASS = (
    "class thing:\n    size = 3\n    def build(self):\n        return 1\n"
    "    @property\n    def name(self):\n        return 'n'\n"
)
OTHERWISE = [
    ("constant", CODE, ("'c'", "'d'")),
    ("default", CODE, ("y=1", "y=2")),
    ("name", CODE, ("range", "sorted")),
    ("method", CLASS, ("return 1", "return 2")),
    ("attribute", CLASS, ("size = 3", "size = 4")),
    ("property", CLASS, ("'n'", "'m'")),
]


@pytest.mark.parametrize(("code", "change"), [c[1:] for c in OTHERWISE], ids=[c[0] for c in OTHERWISE])
def test_code_without_a_file_is_hashed_as_compiled(code: str, change: tuple[str, str]) -> None:
    assert fingerprint_source(defined(code)) == fingerprint_source(defined(f"\n\n{code}"))
    assert fingerprint_source(defined(code)) != fingerprint_source(defined(code.replace(*change)))


def test_wrapped_and_partial_functions() -> None:
    thing = defined(CODE)
    wrapped = functools.wraps(thing)(lambda *arguments: thing(*arguments))
    assert fingerprint_source(wrapped) == fingerprint_source(thing)
    partials = [fingerprint_source(functools.partial(thing, value)) for value in (1, 2, 1)]
    assert partials[0] == partials[2]
    assert len({fingerprint_source(thing), *partials}) == 3


def test_hashes_do_not_depend_on_the_process(llama2_folder: Path) -> None:
    script = (
        "import sys; from transformers import AutoTokenizer\n"
        "from ftframe.data.fingerprints import *; from ftframe.data.prompt_templates import Alpaca\n"
        f"namespace = dict(__name__='a_cell'); exec({CODE!r}, namespace)\n"
        "print(fingerprint_tokenizer(AutoTokenizer.from_pretrained(sys.argv[1])))\n"
        "print(fingerprint_source(namespace['thing']), fingerprint_template(Alpaca(), name='a', arguments={}))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script, str(llama2_folder)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(outputs.pop().split()) == 3


@pytest.fixture
def tokenizer(llama2_folder: Path) -> Any:
    """A tokenizer that a test may change."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(llama2_folder)


def test_tokenizer_hash_is_of_its_content(tokenizer: Any, tmp_path: Path) -> None:
    from transformers import AddedToken, AutoTokenizer

    seen = [fingerprint_tokenizer(tokenizer)]
    tokenizer("some text " * 9, truncation=True, max_length=4)
    assert fingerprint_tokenizer(tokenizer) == seen[0]
    tokenizer.save_pretrained(tmp_path)
    assert fingerprint_tokenizer(AutoTokenizer.from_pretrained(tmp_path)) == seen[0]
    for change in (
        lambda: tokenizer.add_tokens(["<|new|>"]),
        lambda: tokenizer.add_tokens([AddedToken("<|other|>", lstrip=True)]),
        lambda: setattr(tokenizer, "eos_token", "<|new|>"),
        lambda: setattr(tokenizer, "bos_token", None),
    ):
        change()
        seen.append(fingerprint_tokenizer(tokenizer))
    assert len(set(seen)) == len(seen)


def test_flags_of_added_tokens_count() -> None:
    from tokenizers import Tokenizer, models
    from transformers import AddedToken, PreTrainedTokenizerFast

    def hash_of(**flags: Any) -> str:
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
        tokenizer.add_tokens([AddedToken("<x>", **flags)])
        return fingerprint_tokenizer(tokenizer)

    assert hash_of(lstrip=False) == hash_of(lstrip=False)
    assert len({hash_of(lstrip=value, rstrip=other) for value in (True, False) for other in (True, False)}) == 4


def test_a_tokenizer_without_a_fast_backend_is_hashed_by_its_vocabulary() -> None:
    from transformers import PreTrainedTokenizer

    class Words(PreTrainedTokenizer):
        def __init__(self, words: list[str]) -> None:
            self.words = {word: index for index, word in enumerate(words)}
            super().__init__()

        vocab_size = property(lambda self: len(self.words))

        def get_vocab(self) -> dict[str, int]:
            return {**self.words, **self.added_tokens_encoder}

    assert fingerprint_tokenizer(Words(["a", "b"])) == fingerprint_tokenizer(Words(["a", "b"]))
    assert fingerprint_tokenizer(Words(["a", "b"])) != fingerprint_tokenizer(Words(["b", "a"]))
