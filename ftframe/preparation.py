"""From the config's `data` node to tokenised, checked examples, and the prompts that are answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ftframe.api import BadRow, Conversation, PromptTemplate, Row, Splits
from ftframe.assembly import answerer, build_metrics, plain
from ftframe.console import progress
from ftframe.data.datamodule import Loading, SFTDataModule
from ftframe.data.datasets import split_validation
from ftframe.data.supervision import check_supervision, encode_text, prompt_ids, stop_token_ids, tokenize_conversation
from ftframe.errors import DataError
from ftframe.metrics.generation import GenerationMetrics, Sampling
from ftframe.registry import datasets


@dataclass
class PreparedData:
    """Tokenised data, and what became of its rows.

    Attributes:
        train: Examples with `input_ids` and `labels`.
        validation: The same for the held-out part.
        prompts: Token ids of the validation prompts that are answered by generation.
        references: The right answer to each of these prompts.
        conversations: Where each of these prompts comes from.
        counts: Rows read, dropped and truncated, by name.
    """

    train: list[dict[str, list[int]]]
    validation: list[dict[str, list[int]]]
    prompts: list[list[int]] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    conversations: list[Conversation] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def prepare_data(
    data: Any, template: PromptTemplate, *, tokenizer: Any, seed: int, train: bool = True, whole: bool = False
) -> PreparedData:
    """Read, split, tokenise and check the data of a config's `data` node.

    `whole` is for data that is only measured: where it brings no validation split, every row is measured and none held
    back for training.

    Raises:
        DataError: If a row cannot be learnt from, or nothing is left.
        ConfigError: If an argument of the dataset is wrong.
    """
    splits: Any = _good_rows(datasets.build(plain(data.dataset), key="data.dataset"))
    if "validation" not in splits and whole:
        splits = {"train": [], "validation": splits["train"]}
    elif "validation" not in splits:
        splits = split_validation(splits["train"], fraction=data.validation_fraction, seed=seed)
    training, validation = splits["train"], splits["validation"]
    prepared = PreparedData([], [])
    tokenize = partial(_tokenize_split, data=data, template=template, tokenizer=tokenizer, counts=prepared.counts)
    if train:
        prepared.train = tokenize("train", training)
    prepared.validation = tokenize("validation", validation)
    answered = [c for c in validation if c[-1].role == "assistant" and len(c) > 1][: data.generate_examples]
    for conversation in answered:
        prepared.conversations.append(conversation)
        prepared.prompts.append(prompt_ids(conversation, template=template, tokenizer=tokenizer))
        prepared.references.append(conversation[-1].content)
    return prepared


def _good_rows(splits: Splits) -> dict[str, list[Conversation]]:
    """The conversations of each split.

    Raises:
        DataError: If a row is none.
    """
    found: dict[str, list[Conversation]] = {}
    for split, rows in splits.items():
        for row in rows:
            if isinstance(row, BadRow):
                raise DataError(str(row))
            found.setdefault(split, []).append(row.messages if isinstance(row, Row) else row)
    return found


def _tokenize_split(
    split: str,
    conversations: Sequence[Conversation],
    *,
    data: Any,
    template: Any,
    tokenizer: Any,
    counts: dict[str, int],
) -> list[dict[str, list[int]]]:
    counts[f"{split}_rows"] = len(conversations)
    examples = []
    with progress(f"tokenise {split}", total=len(conversations), visible=len(conversations) > 1000) as advance:
        for row, conversation in enumerate(conversations, start=1):
            example = tokenize_conversation(conversation, template=template, tokenizer=tokenizer)
            advance()
            if len(example["input_ids"]) > data.max_length:
                example = _shorten(example, data, f"{split} row {row}", counts)
            if example is not None:
                examples.append(example)
    if not examples:
        raise DataError(f"No example is left in {split}: all are longer than data.max_length={data.max_length} tokens.")
    check_supervision(
        examples, tokenizer=tokenizer, stop_ids=stop_token_ids(template=template, tokenizer=tokenizer), split=split
    )
    return examples


def _shorten(example: Any, data: Any, row: str, counts: dict[str, int]) -> Any:
    """What `data.on_too_long` asks for; None to drop the example."""
    length, choice = len(example["input_ids"]), data.on_too_long.value
    if choice == "error":
        raise DataError(
            f"{row} has {length} tokens, more than data.max_length={data.max_length}. "
            "Raise data.max_length, or set data.on_too_long=drop or truncate."
        )
    cut = {name: values[: data.max_length] for name, values in example.items()}
    learns = any(label >= 0 for label in cut["labels"][1:])
    outcome = "truncated" if choice == "truncate" and learns else "dropped"
    counts[f"{outcome}_as_too_long"] = counts.get(f"{outcome}_as_too_long", 0) + 1
    return cut if outcome == "truncated" else None


def build_datamodule(data: Any, prepared: PreparedData, *, pad_token_id: int, seed: int) -> SFTDataModule:
    """The batches of prepared data."""
    return SFTDataModule(
        prepared.train,
        prepared.validation,
        pad_token_id=pad_token_id,
        loading=Loading(
            batch_size=data.batch_size,
            validation_batch_size=data.eval_batch_size,
            seed=seed,
            num_workers=data.num_workers,
            group_by_length=data.group_by_length,
        ),
    )


def generation_metrics(
    prepared: PreparedData, nodes: Sequence[Any], *, tokenizer: Any, sampling: Sampling, batch_size: int
) -> GenerationMetrics:
    """The callback that answers the validation prompts."""
    return GenerationMetrics(
        prepared.prompts,
        prepared.references,
        metrics=build_metrics(nodes),
        generate=answerer(tokenizer, sampling, batch_size=batch_size),
        encode=partial(encode_text, tokenizer=tokenizer),
    )
