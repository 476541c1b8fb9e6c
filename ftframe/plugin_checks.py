"""The checks of `ftframe plugins check`: those of `ftframe.testing`, with arguments taken from the plugin's configs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ftframe import testing
from ftframe.api import Conversation
from ftframe.compose import compose
from ftframe.extensions import named_nodes
from ftframe.nodes import plain
from ftframe.registry import Registry, datasets
from ftframe.survey import Row


class Outcome(NamedTuple):
    """One line of the report."""

    what: str
    outcome: str
    is_good: bool


@dataclass
class Known:
    """What the configs of a plugin say about its names.

    Attributes:
        arguments: The keys beside `name`, by kind and name.
        conversations: Rows of the plugin's datasets.
    """

    arguments: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    conversations: list[Conversation] = field(default_factory=list)


def checks_of(rows: Sequence[Row], overrides: Sequence[str]) -> Iterator[Outcome]:
    """The outcome of each check of one distribution, as they come."""
    distribution = rows[0].distribution
    for row in rows:
        if row.reason:
            yield Outcome(f"{row.kind} {row.name}".strip(), row.reason, False)
    usable = [row for row in rows if row.state == "ok"]
    named = [row for row in usable if row.kind != "config"]
    if named:
        yield _outcome("import time", lambda: f"{testing.check_import_time(distribution):.2f} s")
    configs = [option for row in usable if row.kind == "config" for option in _options(row)]
    if configs:
        needed = {option: list(overrides) for option in configs if option.startswith("data=")}
        yield _outcome("configs", lambda: " ".join(testing.check_configs_compose(distribution, needed)))
    known = Known(_arguments(configs, overrides))
    for row in sorted(named, key=lambda row: row.kind):  # datasets first: their rows try the others
        yield _outcome(f"{row.kind} {row.name}", lambda row=row: CHECKS[row.kind](row.name, known))  # type: ignore[misc]


def _options(row: Row) -> list[str]:
    """`data=a` and `data=b` for a row `data=a,b`."""
    group, equals, names = row.name.partition("=")
    return [f"{group}={name}" for name in names.split(",")] if equals else []


def _outcome(what: str, check: Callable[[], str]) -> Outcome:
    try:
        return Outcome(what, check(), True)
    except Exception as error:  # a plugin may raise anything
        return Outcome(what, f"{type(error).__name__}: {error}", False)


def _arguments(configs: Sequence[str], overrides: Sequence[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """The arguments that the plugin's own configs give to each name."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for option in configs:
        try:
            nodes = _nodes(option, overrides if option.startswith("data=") else ())
        except Exception:  # the check of the configs has said so
            continue
        for registry, _, node in nodes:
            arguments = {key: value for key, value in node.items() if key != "name"}
            found.setdefault((registry.kind, node["name"]), arguments)
    return found


def _nodes(option: str, overrides: Sequence[str]) -> list[tuple[Registry, str, Mapping[str, Any]]]:
    cfg = compose("fit", [option, *overrides])
    return list(named_nodes({"data": plain(cfg.data), "metrics": plain(cfg.metrics)}))


def _check_dataset(name: str, known: Known) -> str:
    arguments = known.arguments.get((datasets.kind, name), {})
    left_open = [key for key, value in arguments.items() if value == "???"]
    if left_open:
        return f"not tried: its config leaves data.dataset.{left_open[0]} open; give it after the name"
    splits = testing.check_dataset(name, **arguments)
    known.conversations += [conversation for rows in splits.values() for conversation in rows]
    return ", ".join(f"{len(rows)} rows of {split}" for split, rows in splits.items())


def _check_template(name: str, known: Known) -> str:
    arguments = known.arguments.get(("prompt_template", name), {})
    testing.check_prompt_template(name, **arguments)
    if known.conversations:
        testing.check_prompt_template(name, known.conversations, **arguments)
    return f"{len(testing.EXAMPLES)} examples, and {len(known.conversations)} rows of its dataset"


def _check_metric(name: str, known: Known) -> str:
    value = testing.check_metric(name, **known.arguments.get(("metric", name), {}))
    return f"{value:.4g} of {len(testing.ANSWERS)} answers"


CHECKS: dict[str, Callable[[str, Known], str]] = {
    "dataset": _check_dataset,
    "prompt_template": _check_template,
    "metric": _check_metric,
}
