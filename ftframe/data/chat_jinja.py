"""A tokenizer's Jinja chat template: rendered with a fixed date, and read for what its output may depend on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date as Date  # noqa: N812 (`date` is the option's name)
from functools import partial
from typing import Any, NamedTuple, TypeGuard, TypeVar

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser

from ftframe.data import time_limit
from ftframe.errors import ConfigError

LONGEST = 10.0
"""Seconds that one rendering may take; it takes milliseconds, and a template of nested loops could take years."""

Found = TypeVar("Found", bound=nodes.Node)

CLOCK = "strftime_now"
"""The function by which templates ask for today's date; transformers gives it to them."""

FIXED_CLOCK = (
    f"{{% macro {CLOCK}(format) %}}"
    "{{ ftframe_dates[format] if format in ftframe_dates else raise_exception('unknown date format ' ~ format) }}"
    "{% endmacro %}\n"
)
"""Put in front of a template, it takes the clock's place. The newline is the block's own: `trim_blocks` drops it."""


class Rendering(NamedTuple):
    """What a template writes.

    Attributes:
        text: The conversation.
        spans: Start and end, in characters, of what stood in `{% generation %}`.
    """

    text: str
    spans: Sequence[tuple[int, int]]


class ChatJinja:
    """The default chat template of a tokenizer."""

    def __init__(self, tokenizer: Any, *, date: str) -> None:
        """Read the template.

        Args:
            tokenizer: A transformers tokenizer that has a chat template.
            date: The day, as YYYY-MM-DD, that a template which writes today's date writes instead.

        Raises:
            ConfigError: If there are several templates and none is the default, the template is no Jinja or computes
                powers, it has
                `{% generation %}` where its text cannot be told, the date is none, or it is asked for in a format that
                is known only when the template runs.
        """
        owner = f"the tokenizer '{tokenizer.name_or_path}'" if tokenizer.name_or_path else "the tokenizer"
        self.title = f"The chat template of {owner}"
        try:
            self.source = str(tokenizer.get_chat_template())
            tree = parse(self.source)
        except (ValueError, jinja2.TemplateSyntaxError) as error:
            raise ConfigError(
                f"{self.title} cannot be used: {error} Set data.template.name to another format."
            ) from error
        if tree.find(nodes.Pow) is not None:
            raise ConfigError(
                f"{self.title} cannot be used: it raises numbers to a power, which could take for ever. Set "
                "data.template.name to another format."
            )
        if buffers_generation(tree):
            raise ConfigError(
                f"{self.title} has {{% generation %}} in a macro or another block whose text is kept back, so it "
                "cannot be told what is learnt. Move it out of that block, or set data.template.name to another format."
            )
        self.says_what_is_learnt = tree.find(nodes.ExtensionAttribute) is not None
        self._looked_for = any_of(looked_for(tree))
        self._variables = dict(tokenizer.special_tokens_map)
        self._text = self.source
        if any(name.name == CLOCK for name in tree.find_all(nodes.Name)):
            self._text = FIXED_CLOCK + self.source
            self._variables["ftframe_dates"] = self._dates(tree, parse_date(date))

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = False) -> Rendering:
        """What the template writes; it may raise anything.

        A template is code that a tokenizer brings: transformers runs it in jinja2's `ImmutableSandboxedEnvironment`,
        where it reaches nothing but what it is given.
        """
        from transformers.utils.chat_template_utils import render_jinja_template  # imports torch

        render: Any = partial(  # annotated as one text, but it is texts and the spans of each
            render_jinja_template,
            conversations=[[dict(message) for message in messages]],
            chat_template=self._text,
            add_generation_prompt=add_generation_prompt,
            return_assistant_tokens_mask=self.says_what_is_learnt,
            **self._variables,
        )
        texts, spans = time_limit.within(LONGEST, render)
        return Rendering(texts[0], spans[0] if spans else ())

    def may_read(self, content: str) -> bool:
        """Whether the template may write other text around, or in place of, this content than around most others."""
        return not content or content.isspace() or self._looked_for.search(content) is not None

    def _dates(self, tree: nodes.Template, day: Date) -> dict[str, str]:
        """The day in each format that the template asks for.

        Raises:
            ConfigError: If a format is not a constant.
        """
        dates = {}
        for call in tree.find_all(nodes.Call):
            if not (isinstance(call.node, nodes.Name) and call.node.name == CLOCK):
                continue
            if len(call.args) != 1 or not isinstance(call.args[0], nodes.Const):
                raise ConfigError(
                    f"{self.title} writes today's date in a format that is known only when it "
                    "runs, so its tokens would change from day to day. Set data.template.name to another format."
                )
            dates[str(call.args[0].value)] = day.strftime(str(call.args[0].value))
        return dates


class GenerationTag(Extension):
    """Lets `{% generation %}` be parsed; transformers' own extension runs it."""

    tags = {"generation"}  # noqa: RUF012 (declared so by the base class)

    def parse(self, parser: Parser) -> nodes.Node:
        """A block that calls this extension, by which it is found again."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("generation"), [], [], body).set_lineno(line)


def parse(source: str) -> nodes.Template:
    """The template's syntax tree; nothing is run.

    Raises:
        jinja2.TemplateSyntaxError: If it is no Jinja.
    """
    return jinja2.Environment(extensions=[GenerationTag, LoopControlExtension]).parse(source)


def buffers_generation(tree: nodes.Template) -> bool:
    """Whether `{% generation %}` stands in what Jinja writes into a buffer first, such as a macro.

    transformers counts from what was written so far, so it gives wrong places for the text of such a block.
    """
    buffered: list[Any] = list(tree.find_all((nodes.Macro, nodes.AssignBlock, nodes.FilterBlock, nodes.CallBlock)))
    buffered += [loop for loop in tree.find_all(nodes.For) if loop.recursive]
    return any(part.find(nodes.ExtensionAttribute) is not None for node in buffered for part in node.body)


def looked_for(tree: nodes.Template) -> set[str]:
    """The texts that a template compares with, splits at or replaces: it may be in contents that it looks for them.

    White space is left out, since a template that trims contents is no concern, and so are single words, which are
    roles and keys.
    """
    given = [part for node in tree.find_all(nodes.Node) for part in operands(node)]
    names = {name.name for part in given for name in within(part, nodes.Name)}
    for node in tree.find_all(nodes.Assign):
        if isinstance(node.target, nodes.Name) and node.target.name in names:
            given.append(node.node)
    values = {constant.value for part in given for constant in within(part, nodes.Const)}
    return {text for text in values if isinstance(text, str) and text.strip() and not text.isidentifier()}


def operands(node: nodes.Node) -> list[nodes.Node]:
    """What an operation is given, if it is one that can look into a text."""
    if isinstance(node, nodes.Compare):
        return [node.expr, *(operand.expr for operand in node.ops)]
    if isinstance(node, nodes.Test) or is_method_call(node) or is_text_filter(node):
        return [*node.args, *node.kwargs]
    return []


def within(node: nodes.Node, kind: type[Found]) -> Iterator[Found]:
    """The nodes of a kind in a node, itself included."""
    if isinstance(node, kind):
        yield node
    yield from node.find_all(kind)


def is_method_call(node: nodes.Node) -> TypeGuard[nodes.Call]:
    """Whether the node calls a method, as `content.split` is one."""
    return isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr)


def is_text_filter(node: nodes.Node) -> TypeGuard[nodes.Filter]:
    """Whether the node is a filter that looks for its arguments in a text; others only put them into one."""
    return isinstance(node, nodes.Filter) and node.name in ("replace", "trim")


def any_of(texts: set[str]) -> re.Pattern[str]:
    """A pattern that finds any of the texts, and nothing where there are none."""
    return re.compile("|".join(map(re.escape, sorted(texts))) or "(?!)")


def parse_date(text: str) -> Date:
    """The day.

    Raises:
        ConfigError: If it is none.
    """
    try:
        return Date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"data.template.date={text} is no date. Write it as YYYY-MM-DD.") from error
