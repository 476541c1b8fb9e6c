"""What a chat template may do to contents, and the clock it may read."""

from __future__ import annotations

from typing import Any

import pytest

from ftframe.api import Message, Segment
from ftframe.data.chat_jinja import ChatJinja
from ftframe.data.prompt_templates import TokenizerTemplate
from ftframe.errors import ConfigError, DataError


def template_of(tokenizer: Any, jinja: str, **options: Any) -> TokenizerTemplate:
    """The template with this text."""
    tokenizer.chat_template = jinja
    return TokenizerTemplate(tokenizer, **options)


def written(segments: list[Segment]) -> str:
    """Segments as one string, supervised ones in braces."""
    return "".join(f"{{{segment.text}}}" if segment.supervised else segment.text for segment in segments)


def chat(*contents: str, masked: bool | None = None) -> list[Message]:
    """Contents of user and assistant in turn, the first answer masked or not."""
    turns = [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(contents)]  # type: ignore[arg-type]
    return [turns[0], Message("assistant", contents[1], masked), *turns[2:]]


EACH = "{{% for m in messages %}}{{{{ {} + eos_token }}}}{{% endfor %}}"
CHANGES = ["m.content | upper", "m.content | replace('\n', ' ')", "m.content | e", "m.content | tojson",
           "m.content.split('\n')[0]", "m.content | wordwrap(5)", "m.content | truncate(9)"]  # fmt: skip


@pytest.mark.parametrize("expression", CHANGES)
def test_templates_that_change_contents_are_refused(chat_tokenizer: Any, expression: str) -> None:
    template = template_of(chat_tokenizer, EACH.format(expression))
    for _ in range(2):
        with pytest.raises(DataError, match=r"does not write messages as they are: it writes .+ where .+ is due"):
            template.render(chat("Hi", "Yes"))


@pytest.mark.parametrize("expression", ["m.content | trim", "m.content.lstrip()", "m.content.rstrip('\n')"])
def test_contents_are_kept_where_the_template_trims_them(chat_tokenizer: Any, expression: str) -> None:
    template = template_of(chat_tokenizer, EACH.format(expression))
    assert written(template.render(chat(" Hi\n", " \n Yes \n"))) == " Hi\n</s>{ \n Yes \n}{</s>}"


LOOKS_INTO = [
    ("a-tag", EACH.format("m.content.replace('[b]', '')"), "[b]Yes"),
    ("a-tag-in-a-variable", "{% set tag = '[b]' %}" + EACH.format("(m.content | replace(tag, ''))"), "[b]Yes"),
    ("a-switch", EACH.format("('Thinking is on. ' if '/think' in m.content else '') + m.content"), "Yes /think"),
    ("nothing", EACH.format("m.content + ('' if m.content else '(empty)')"), ""),
]


@pytest.mark.parametrize(("jinja", "answer"), [c[1:] for c in LOOKS_INTO], ids=[c[0] for c in LOOKS_INTO])
def test_a_content_that_the_template_looks_for_is_compared_with_what_it_writes(
    chat_tokenizer: Any, jinja: str, answer: str
) -> None:
    template = template_of(chat_tokenizer, jinja)
    template.render(chat("Hi", "Yes"))
    with pytest.raises(DataError, match="does not write messages as they are"):
        template.render(chat("Hi", answer))
    template.render(chat("Hi", "No"))


def test_thoughts_in_an_answer_that_the_template_takes_apart_are_refused(
    chat_tokenizer: Any, chat_templates: dict[str, str]
) -> None:
    template = template_of(chat_tokenizer, chat_templates["qwen3"])
    template.render(chat("Hi", "Yes"))
    with pytest.raises(DataError, match="does not write messages as they are"):
        template.render(chat("Hi", "<think>\nhm\n</think>\n\nYes"))
    template.render(chat("<think>\nhm\n</think>\n\nHi", "Yes"))  # it takes only answers apart


def test_contents_are_compared_only_where_the_template_looks_into_them(
    chat_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    jinja = "{% set comma = ', ' %}{% set head = 'a, b' + comma %}" + EACH.format("[m.content] | join(comma)")
    template = template_of(chat_tokenizer, jinja)
    template.render(chat("Hi", "Yes"))
    monkeypatch.setattr(ChatJinja, "render", None)
    template.render(chat("Hi, you", "Yes, me"))


def test_a_date_is_fixed_and_can_be_set(chat_tokenizer: Any) -> None:
    jinja = "{{ strftime_now('%A, %d %B %Y') if strftime_now is defined }}\n" + EACH.format("m.content")
    assert written(template_of(chat_tokenizer, jinja).render(chat("Hi", "Yes"))).startswith("Friday, 26 July 2024\n")
    other = template_of(chat_tokenizer, jinja, date="2020-02-29")
    assert written(other.render(chat("Hi", "Yes"))).startswith("Saturday, 29 February 2020\n")
    leading = template_of(chat_tokenizer, "\n  {% set day = strftime_now('%Y') %}" + EACH.format("day + m.content"))
    assert written(leading.render(chat("Hi", "Yes"))) == "\n2024Hi</s>2024{Yes}{</s>}"


UNUSABLE = [
    ("no-date", {"date": "tomorrow"}, "{{ strftime_now('%Y') }}",
     r"data\.template\.date=tomorrow is no date.*YYYY-MM-DD"),
    ("unknown-format", {}, "{% set f = '%Y' %}{{ strftime_now(f) }}", "today's date in a format that is known only"),
    ("generation-in-a-macro", {}, "{% macro a(m) %}{% generation %}{{ m.content }}{% endgeneration %}{% endmacro %}",
     "{% generation %} in a macro or another block"),
    ("generation-in-a-set-block", {}, "{% set a %}{% generation %}a{% endgeneration %}{% endset %}", "cannot be told"),
    ("nested-generation", {}, "{% generation %}{% generation %}a{% endgeneration %}{% endgeneration %}", "be told"),
    ("no-jinja", {}, "{% for m in messages %}{{ m.content }}", "cannot be used: Unexpected end of template"),
    ("no-default", {}, {"rag": "a", "tool": "b"}, "cannot be used: .*no default specified"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "jinja", "reason"), [c[1:] for c in UNUSABLE], ids=[c[0] for c in UNUSABLE])
def test_templates_that_cannot_be_used_are_config_errors(
    chat_tokenizer: Any, options: dict[str, str], jinja: Any, reason: str
) -> None:
    with pytest.raises(ConfigError, match=f"(?s){reason}"):
        template_of(chat_tokenizer, jinja, **options)


def test_of_several_templates_the_default_is_used(chat_tokenizer: Any) -> None:
    template = template_of(chat_tokenizer, {"default": EACH.format("m.content"), "rag": "no"})  # type: ignore[arg-type]
    assert written(template.render(chat("Hi", "Yes"))) == "Hi</s>{Yes}{</s>}"


def test_jinja_runs_for_role_sequences_and_not_for_rows(
    chat_tokenizer: Any, chat_templates: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    render = ChatJinja.render
    monkeypatch.setattr(ChatJinja, "render", lambda self, *a, **k: calls.append(a) or render(self, *a, **k))
    template = template_of(chat_tokenizer, chat_templates["llama3"])
    for number in range(200):
        template.render(chat(f"Question {number}", f"Answer {number}"))
    assert 0 < len(calls) < 10
    template.render(chat("a", "b", "c", "d"))
    assert len(calls) < 20
