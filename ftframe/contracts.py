"""Whether an object is what its kind of extension must be: told without importing torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ftframe.api import METRIC_KINDS

_METRIC = "torchmetrics.metric.Metric"


def registered_trouble(kind: str, registered: Any) -> str:
    """What is wrong with a registered class or function; empty if nothing is known to be."""
    check = _REGISTERED.get(kind)
    return check(registered) if check else ""


def built_trouble(kind: str, built: Any) -> str:
    """What is wrong with what a registered class or function gave; empty if nothing is known to be."""
    check = _BUILT.get(kind)
    return check(built) if check else ""


def _dataset_trouble(registered: Any) -> str:
    needed = "a function that returns the splits is needed"
    return "" if callable(registered) else f"it is {_describe(registered)}; {needed}"


def _template_class_trouble(registered: Any) -> str:
    if not callable(registered):
        return f"it is {_describe(registered)}; a class with a method render(messages) is needed"
    return _template_trouble(registered) if inspect.isclass(registered) else ""


def _metric_class_trouble(registered: Any) -> str:
    if not inspect.isclass(registered) or not _is_metric(registered):
        return f"it is {_describe(registered)}; a subclass of torchmetrics.Metric is needed"
    return _metric_trouble(registered)


def _splits_trouble(built: Any) -> str:
    if not isinstance(built, Mapping) or "train" not in built:
        given = f"a mapping of {', '.join(map(repr, built)) or 'nothing'}" if isinstance(built, Mapping) else None
        return (
            f"what it returned is {given or _describe(built)}; a mapping of split names to rows with 'train' is needed"
        )
    for split, rows in built.items():
        if not isinstance(rows, Iterable) or isinstance(rows, (str, bytes, Mapping)):
            return f"its split '{split}' is {_describe(rows)}; rows are needed: a list, or another iterable"
        if isinstance(rows, Iterator):
            return (
                f"its split '{split}' is {_describe(rows)}, which can be read once only; "
                "a list is needed, or an object whose __iter__ starts anew"
            )
    return ""


def _template_trouble(template: Any) -> str:
    render = getattr(template, "render", None)
    return "" if callable(render) else f"it is {_describe(template)} without a method render(messages)"


def _metric_trouble(metric: Any) -> str:
    kind = getattr(metric, "kind", "text")
    return "" if kind in METRIC_KINDS else f"its kind is {kind!r}; one of {', '.join(METRIC_KINDS)} is needed"


def _is_metric(candidate: type) -> bool:
    return any(f"{base.__module__}.{base.__qualname__}" == _METRIC for base in candidate.__mro__)


def _describe(thing: Any) -> str:
    """`the class Foo`, `the function foo`, or the type of anything else."""
    if inspect.isclass(thing):
        return f"the class {thing.__name__}"
    if inspect.isroutine(thing):
        return f"the function {thing.__name__}"
    return f"of type {type(thing).__name__}"


_REGISTERED: Mapping[str, Callable[[Any], str]] = {
    "dataset": _dataset_trouble,
    "prompt_template": _template_class_trouble,
    "metric": _metric_class_trouble,
}
_BUILT: Mapping[str, Callable[[Any], str]] = {
    "dataset": _splits_trouble,
    "prompt_template": _template_trouble,
    "metric": _metric_trouble,
}
