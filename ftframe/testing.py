"""Checks that the author of a plugin runs in tests of their own; `ftframe plugins check` runs the same ones.

Each takes a name as the config would: a registered one, or `./my_data.py:build`. Each raises `AssertionError` with what
is wrong, or ftframe's own error where a run would end in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any

import torch
from omegaconf import OmegaConf
from packaging.utils import canonicalize_name

from ftframe import compose, config_folders
from ftframe.api import BadRow, Conversation, DataError, Message, PromptTemplate, Row, Segment
from ftframe.assembly import base_spec, check_nodes
from ftframe.config_folders import ConfigFolder
from ftframe.data.conversations import as_row
from ftframe.data.examples import examples_of
from ftframe.data.supervision import check_supervision, prompt_ids, stop_token_ids, tokenize_conversation
from ftframe.models.base import load_tokenizer
from ftframe.probe import probe
from ftframe.registry import datasets, metrics, prompt_templates
from ftframe.search_path import refuse_clashes

__all__ = [
    "EXAMPLES",
    "check_configs_compose",
    "check_dataset",
    "check_import_time",
    "check_metric",
    "check_prompt_template",
    "embedded_tokenizer",
]

ROWS_READ = 1000
"""How many rows of each split are looked at."""

EXAMPLES: tuple[Conversation, ...] = (
    (Message("user", "How many legs has a spider?"), Message("assistant", "Eight.")),
    (Message("user", "line one\nline two  "), Message("assistant", " 1,234 </s> [INST] <|im_end|>\n\nend ")),
    (Message("system", "Be brief."), Message("user", "Is ice cold?"), Message("assistant", "Yes.")),
    (Message("user", "a?"), Message("assistant", "b"), Message("user", "c?"), Message("assistant", "d")),
)
"""Conversations that templates are tried with; the second tries to forge the end of a turn."""

ANSWERS = (("eight", "eight"), ("12", "21"), ("#### 4", "#### 4"), ("", "yes"))
"""Predictions and references that metrics are tried with."""


@cache
def embedded_tokenizer() -> Any:
    """The tokenizer of the model that ships with ftframe: no network is needed."""
    return load_tokenizer(base_spec(compose.check(compose.compose("fit", ["model=tiny"]))))


def check_dataset(name: str, /, **arguments: Any) -> dict[str, list[Conversation]]:
    """The conversations of each split, after the checks of a dataset builder.

    Its arguments fit its signature; it returns splits with a `train` that is not empty; each row is a conversation, a
    `Row` or a `BadRow`; reading a split again, or building anew, gives the same rows.

    Args:
        name: The dataset.
        arguments: What stands beside `name` in `data.dataset`.

    Raises:
        AssertionError: If a check fails.
        FtframeError: If a run would end in it.
    """
    spec = {"name": name, **arguments}
    splits = datasets.build(spec, key="data.dataset")
    read = {split: list(islice(rows, ROWS_READ)) for split, rows in splits.items()}
    found = {split: list(_conversations(split, rows)) for split, rows in read.items()}
    assert found["train"], "the split 'train' has no conversation"
    for split, rows in splits.items():
        assert list(islice(rows, ROWS_READ)) == read[split], f"split '{split}' read a second time gives other rows"
    for split, rows in datasets.build(spec, key="data.dataset").items():
        assert list(islice(rows, ROWS_READ)) == read.get(split), f"built a second time, split '{split}' has other rows"
    return found


def _conversations(split: str, rows: Iterable[Any]) -> Iterator[Conversation]:
    """The conversations among rows, each checked."""
    for number, row in enumerate(rows, start=1):
        if isinstance(row, BadRow):
            continue
        checked = as_row(row, f"split '{split}', row {number}")  # what a run would say of it
        assert isinstance(checked, Row), str(checked)
        yield checked.messages


def check_prompt_template(name: str, conversations: Sequence[Conversation] | None = None, /, **arguments: Any) -> None:
    """Nothing, after the checks of a prompt template with the embedded model's tokenizer.

    It gives segments, the same ones each time; exactly the learnt turns' contents are supervised, and each is followed
    by a supervised special token, as the gate of a run demands; what is generated from is the beginning of what is
    learnt. Of the built-in `EXAMPLES`, it may refuse with a `DataError` all but the first.

    Args:
        name: The template.
        conversations: What to write with it instead; none of these may be refused.
        arguments: What stands beside `name` in `data.template`.

    Raises:
        AssertionError: If a check fails.
        FtframeError: If a run would end in it.
    """
    tokenizer = embedded_tokenizer()
    template = prompt_templates.build({"name": name, **arguments}, key="data.template", tokenizer=tokenizer)
    examples = []
    for number, messages in enumerate(EXAMPLES if conversations is None else conversations):
        try:
            _check_segments(template, messages)
        except DataError:
            if number == 0 or conversations is not None:
                raise
            continue
        example = tokenize_conversation(messages, template=template, tokenizer=tokenizer)
        if messages[-1].role == "assistant" and len(messages) > 1:
            prompt = prompt_ids(messages, template=template, tokenizer=tokenizer)
            assert prompt == example["input_ids"][: len(prompt)], (
                f"the prompt that is answered is not the beginning of what is learnt: {_shown(messages)}"
            )
        examples.append(example)
    stops = stop_token_ids(template=template, tokenizer=tokenizer)
    check_supervision(examples_of(examples), tokenizer=tokenizer, stop_ids=stops, split="examples")


def _check_segments(template: PromptTemplate, messages: Conversation) -> None:
    segments = template.render(messages)
    where = _shown(messages)
    assert isinstance(segments, list) and all(isinstance(segment, Segment) for segment in segments), (
        f"render gives {segments!r}; a list of ftframe.api.Segment is needed: {where}"
    )
    assert template.render(messages) == segments, f"rendered a second time, the segments are others: {where}"
    learnt = "".join(segment.text for segment in segments if segment.supervised and not segment.special)
    wanted = "".join(turn.content for turn in messages if turn.supervised)
    assert learnt == wanted, f"supervised is {learnt!r}, and the learnt turns hold {wanted!r}"
    for before, after in zip(segments, [*segments[1:], Segment("")], strict=True):
        ends = after.special and after.supervised
        assert before.special or not before.supervised or ends or (after.supervised and not after.special), (
            f"no supervised special token ends {before.text!r}, so the model would never learn to stop"
        )


def check_metric(name: str, pairs: Sequence[tuple[Any, Any]] = ANSWERS, /, **arguments: Any) -> float:
    """The metric's value of some answers, after the checks of a metric.

    It is a `torchmetrics.Metric` that keeps its state by `add_state`; neither GPUs nor a reset change the value.

    Args:
        name: The metric.
        pairs: Answers, each with its reference: strings, or lists of token ids for a metric of that kind.
        arguments: What stands beside `name` in the config.

    Raises:
        AssertionError: If a check fails.
        FtframeError: If a run would end in it.
    """
    spec = {"name": name, **arguments}
    whole, first, second = (metrics.build(spec, key="metrics[0]") for _ in range(3))
    assert whole.metric_state, "it has no state: keep what `update` counts in a state made by add_state"
    assert whole.full_state_update is False, "its class needs full_state_update = False: GPUs add up their states"
    if getattr(whole, "kind", "text") == "tokens" and pairs is ANSWERS:
        tokenizer = embedded_tokenizer()
        pairs = [tuple(tokenizer.encode(text, add_special_tokens=False) for text in pair) for pair in ANSWERS]
    value = _value_of(whole, pairs)
    whole.reset()
    assert _equal(_value_of(whole, pairs), value), f"after reset() the same answers give another value than {value}"
    middle = len(pairs) // 2
    first.update(*_split(pairs[:middle]))
    second.update(*_split(pairs[middle:]))
    first.merge_state(second)
    merged = float(first.compute())
    assert _equal(merged, value), (
        f"two GPUs with half of the answers each give {merged}, and one with all gives {value}"
    )
    return value


def _value_of(metric: Any, pairs: Sequence[tuple[Any, Any]]) -> float:
    """The value after one batch."""
    metric.update(*_split(pairs))
    value = torch.as_tensor(metric.compute())
    assert value.numel() == 1, f"compute() gives {value!r}; one number is needed"
    return float(value)


def _split(pairs: Sequence[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    return [prediction for prediction, _ in pairs], [reference for _, reference in pairs]


def _equal(one: float, other: float) -> bool:
    return bool(torch.isclose(torch.tensor(one), torch.tensor(other), equal_nan=True))


def check_configs_compose(distribution: str, overrides: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """The config options of a distribution, each as `group=option`, after composing `ftframe fit` with it.

    Args:
        distribution: Whose options.
        overrides: What else to type with an option, by `group=option`, such as a path that it leaves open.

    Raises:
        AssertionError: If the distribution brings no option.
        FtframeError: If two distributions have the same option, or a key or value is wrong.
    """
    refuse_clashes()
    options = [name for folder in folders_of(distribution) for name in folder.options]
    assert options, f"{distribution} brings no config: it needs an entry point in the group ftframe.conf"
    chosen = ["=".join(name.rsplit("/", 1)) for name in options]
    for option in chosen:
        cfg = compose.compose("fit", [option, *(overrides or {}).get(option, ())])
        if not OmegaConf.missing_keys(cfg):  # what an option leaves open is for the user to say
            checked = compose.check(cfg)
            compose.check_names(checked)
            check_nodes(checked)
    return chosen


def folders_of(distribution: str) -> list[ConfigFolder]:
    """The folders of config groups that a distribution brings.

    Raises:
        AssertionError: If one cannot be used.
    """
    found = [folder for folder in config_folders.installed() if folder.owner == canonicalize_name(distribution)]
    for folder in found:
        assert not folder.trouble, folder.trouble
    return found


def check_import_time(distribution: str, *, limit: float = 2.0) -> float:
    """Seconds that importing what a distribution registers takes, torch and torchmetrics left out for metrics.

    Args:
        distribution: Whose names.
        limit: The most seconds.

    Raises:
        AssertionError: If it takes longer, or a name cannot be used.
    """
    probed = probe(canonicalize_name(distribution)).values()
    assert probed, f"{distribution} registers no name"
    for one in probed:
        assert not one.trouble, one.trouble
    seconds = sum(one.seconds for one in probed)
    assert seconds <= limit, f"importing what {distribution} registers takes {seconds:.1f} s, more than {limit:g} s"
    return seconds


def _shown(messages: Conversation) -> str:
    return ", ".join(f"{message.role}: {message.content!r}" for message in messages)
