"""What is and what is not an extension of each kind."""

from __future__ import annotations

from typing import ClassVar

import pytest
from torchmetrics import Metric

from ftframe.contracts import built_trouble, registered_trouble
from ftframe.metrics.text import ExactMatch


class Template:
    def render(self, messages):
        return []


class Tokens(ExactMatch):
    kind: ClassVar[str] = "tokens"


class Words(ExactMatch):
    kind: ClassVar[str] = "words"


REGISTERED = {
    "function": ("dataset", dict, ""),
    "list": ("dataset", [1], "it is of type list; a function that returns the splits is needed"),
    "template": ("prompt_template", Template, ""),
    "function that makes one": ("prompt_template", lambda: Template(), ""),
    "class without render": ("prompt_template", dict, "it is the class dict without a method render(messages)"),
    "text": ("prompt_template", "chatml", "it is of type str; a class with a method render(messages) is needed"),
    "metric": ("metric", ExactMatch, ""),
    "metric of tokens": ("metric", Tokens, ""),
    "unknown kind": ("metric", Words, "its kind is 'words'; one of text, tokens is needed"),
    "class that is no metric": ("metric", Template, "it is the class Template; a subclass of torchmetrics.Metric"),
    "function for a metric": ("metric", len, "it is the function len; a subclass of torchmetrics.Metric is needed"),
    "another kind": ("widget", 3, ""),
}


@pytest.mark.parametrize(("kind", "given", "trouble"), REGISTERED.values(), ids=REGISTERED)
def test_registered(kind, given, trouble):
    found = registered_trouble(kind, given)
    assert found.startswith(trouble) and bool(found) == bool(trouble)


class Anew:
    """Rows that can be read again and again."""

    def __iter__(self):
        yield from ()


BUILT = {
    "lists": ("dataset", {"train": [], "validation": ()}, ""),
    "streamed": ("dataset", {"train": Anew()}, ""),
    "no mapping": ("dataset", [1], "what it returned is of type list; a mapping of split names"),
    "no train": ("dataset", {"test": []}, "what it returned is a mapping of 'test'; a mapping of split names"),
    "nothing": ("dataset", None, "what it returned is of type NoneType; a mapping"),
    "text for rows": ("dataset", {"train": "abc"}, "its split 'train' is of type str; rows are needed"),
    "read once": ("dataset", {"train": (n for n in "ab")}, "its split 'train' is of type generator, which can be read"),
    "template": ("prompt_template", Template(), ""),
    "no template": ("prompt_template", 3, "it is of type int without a method render(messages)"),
    "metric": ("metric", ExactMatch(), ""),
}


@pytest.mark.parametrize(("kind", "given", "trouble"), BUILT.values(), ids=BUILT)
def test_built(kind, given, trouble):
    found = built_trouble(kind, given)
    assert found.startswith(trouble) and bool(found) == bool(trouble)


def test_metric_is_told_by_its_ancestor():
    assert issubclass(ExactMatch, Metric)
