"""From the config's `data` node to batches, and to the prompts that are answered."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any

from ftframe.api import PromptTemplate, Row
from ftframe.assembly import answerer, base_spec, build_metrics, pad_token_id
from ftframe.console import progress
from ftframe.data.cache import default_cache_dir
from ftframe.data.datamodule import Loading, SFTDataModule
from ftframe.data.duplicates import Duplicates, find_duplicates
from ftframe.data.examples import Examples
from ftframe.data.fingerprints import fingerprint_source, fingerprint_tokenizer
from ftframe.data.mixing import Mixture, plan_mixture
from ftframe.data.prepared import prepare_task
from ftframe.data.segments import SegmentEncoder
from ftframe.data.streaming import Stream
from ftframe.data.task_data import BadRowPolicy, PreparedTask, Prompt, TaskSource
from ftframe.data.tokenizing import Limit, tokenize_rows
from ftframe.errors import ConfigError
from ftframe.local_files import expanded
from ftframe.metrics.generation import GenerationMetrics, Sampling, try_metric
from ftframe.models.base import check_vocabulary, load_config, load_tokenizer
from ftframe.models.varlen_attention import VARLEN
from ftframe.nodes import plain
from ftframe.registry import datasets
from ftframe.templates import build_template, template_sha256


@dataclass(frozen=True)
class PreparedData:
    """The tokenised data of all tasks.

    Attributes:
        tasks: Those that are trained come first.
        mixture: Which training examples an epoch has; each once if None.
        duplicates: Validation rows that are in the training rows too; None if that was not looked for.
    """

    tasks: list[PreparedTask]
    mixture: Mixture | None = None
    duplicates: Duplicates | None = None

    @property
    def trained(self) -> list[PreparedTask]:
        """The tasks that are not only measured."""
        return [task for task in self.tasks if task.source.weight > 0]

    @property
    def names(self) -> list[str]:
        """The names of the tasks; none where there is only one without a name."""
        return [task.name for task in self.tasks if task.name]

    @cached_property
    def train(self) -> Examples | Stream:
        """The training examples, task by task; or the stream of the only task."""
        parts = [task.train for task in self.trained]
        if isinstance(parts[0], Stream):
            return parts[0]
        return Examples.concatenate(part for part in parts if isinstance(part, Examples))

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts of all tasks that are answered."""
        return [prompt for task in self.tasks for prompt in task.prompts]

    @property
    def stop_token_ids(self) -> list[int]:
        """The tokens that end an answer in any task."""
        return list(dict.fromkeys(token for task in self.tasks for token in task.stop_token_ids))

    @property
    def counts(self) -> dict[str, int]:
        """Rows read, left out and shortened, by name, the task's name in front."""
        counts = {f"{task.name}/{k}".lstrip("/"): number for task in self.tasks for k, number in task.counts.items()}
        found = self.duplicates
        if found is not None:
            counts["train_repeated"] = found.within_train
            counts["validation_in_train"] = found.conversations
            counts["validation_prompts_in_train"] = found.prompts
        return {name: number for name, number in counts.items() if number}

    @property
    def rejected(self) -> list[dict[str, str]]:
        """Rows left out, each with split, place, reason and detail."""
        return [row for task in self.tasks for row in task.rejected]

    def where(self, row: int | str) -> str:
        """Where a training example comes from: its file and row; of a stream, what is given says so."""
        if isinstance(row, str):
            return row
        for task in self.trained:
            assert isinstance(task.train, Examples)
            if row < len(task.train):
                found: Row = task.rows["train"][task.train.rows[row] - 1]
                return found.where
            row -= len(task.train)
        raise IndexError(row)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Digests of the rows of each split, the task's name in front."""
        return {f"{task.name}/{k}".lstrip("/"): v for task in self.tasks for k, v in task.fingerprints.items()}


@dataclass(frozen=True)
class Inputs:
    """What a run is fed with.

    Attributes:
        tokenizer: The base model's.
        template: The prompt template of tasks that do not name their own.
        data: The tokenised data.
        datamodule: Its batches.
    """

    tokenizer: Any
    template: PromptTemplate
    data: PreparedData
    datamodule: SFTDataModule


def load_tokenizer_of(cfg: Any) -> tuple[Any, Any]:
    """The tokenizer of the config's base model, and the model's own config.

    Raises:
        ConfigError: If they cannot be loaded, or do not fit each other.
    """
    spec = base_spec(cfg)
    with progress(f"load tokenizer {spec.tokenizer or spec.path}"):  # a hub may take its time
        config = load_config(spec)  # first, since reading a tokenizer trips over a damaged config too
        tokenizer = load_tokenizer(spec)
        check_vocabulary(config, tokenizer)
    return tokenizer, config


def prepare_inputs(cfg: Any, tokenizer: Any, attention: str) -> Inputs:
    """The data of a training run's config, ready for training.

    Args:
        cfg: The run's config.
        tokenizer: The base model's.
        attention: That the model trains with: `varlen` takes all packs of a batch as one row.

    Raises:
        DataError: If a row cannot be learnt from, or nothing is left.
        ConfigError: If an argument of a dataset or template is wrong, or tasks cannot be mixed as asked.
    """
    template = build_template(cfg.data.template, tokenizer)
    data = prepare_data(cfg.data, template, tokenizer=tokenizer, seed=cfg.seed)
    datamodule = build_datamodule(
        cfg.data,
        data,
        pad_token_id=pad_token_id(tokenizer),
        seed=cfg.seed,
        one_row=attention == VARLEN,
    )
    return Inputs(tokenizer, template, data, datamodule)


def prepare_data(
    data: Any, template: PromptTemplate, *, tokenizer: Any, seed: int, train: bool = True, whole: bool = False
) -> PreparedData:
    """Read, split, tokenise and check the data of a config's `data` node.

    Args:
        data: The node.
        template: Writes the conversations of tasks that do not name their own.
        tokenizer: A transformers tokenizer.
        seed: Chooses the rows held out and those that a mixture draws.
        train: Whether the training rows are wanted.
        whole: Whether every row is measured where there is no validation split.

    Raises:
        DataError: If a row cannot be learnt from, or nothing is left.
        ConfigError: If an argument of a dataset is wrong, or tasks cannot be mixed as asked.
    """
    nodes = task_nodes(data)
    sources = [
        task_source(name, node, data, template=template, tokenizer=tokenizer, seed=seed) for name, node in nodes.items()
    ]
    sources.sort(key=lambda source: source.weight == 0)
    tasks = [prepare_task(source, progress=tokenising, train=train, whole=whole) for source in sources]
    if not train:
        return PreparedData(tasks)
    trained = [task for task in tasks if task.source.weight > 0]
    mixture = build_mixture(data, trained) if len(tasks) > 1 else None
    seen = (row.messages for task in trained for row in task.kept.get("train", ()))
    held_out = [row.messages for task in trained for row in task.kept["validation"]]
    return PreparedData(tasks, mixture, find_duplicates(seen, held_out))


def task_nodes(data: Any) -> dict[str, Any]:
    """The nodes of the tasks by name; one without a name where `data.dataset` is all.

    Raises:
        ConfigError: If there is neither, or both, or no task to train.
    """
    tasks = dict(data.tasks)
    if bool(tasks) == bool(data.dataset):
        given = "both are given" if tasks else "neither is given"
        raise ConfigError(
            f"data.dataset is for one task, data.tasks for several, and {given}. Choose a recipe, as data=people; or "
            "data=mix and for each task +data.tasks.<task>.dataset.name=... and its arguments."
        )
    if not tasks:
        return {"": None}
    for name, node in tasks.items():
        if not 0 <= node.weight < math.inf:
            raise ConfigError(f"data.tasks.{name}.weight={node.weight}: a number of at least 0 is needed.")
    if not any(node.weight > 0 for node in tasks.values()):
        raise ConfigError("Every task in data.tasks has weight 0, so nothing is trained. Give one a weight above 0.")
    return tasks


def task_source(name: str, node: Any, data: Any, *, template: PromptTemplate, tokenizer: Any, seed: int) -> TaskSource:
    """What a task's examples are made from, its dataset built.

    Raises:
        ConfigError: If an argument of the dataset or template is wrong.
    """
    prefix = f"data.tasks.{name}" if name else "data"
    dataset = plain(node.dataset if name else data.dataset)
    template_node = plain(node.template if name and node.template is not None else data.template)
    if name and node.template is not None:
        template = build_template(node.template, tokenizer, key=f"{prefix}.template")

    def setting(key: str) -> Any:
        own = node[key] if name else None
        return data[key] if own is None else own

    return TaskSource(
        name=name,
        splits=datasets.build(dataset, key=f"{prefix}.dataset", node=f"{prefix}.dataset"),
        template=template,
        tokenizer=tokenizer,
        limit=Limit(setting("max_length"), setting("on_too_long").value),
        policy=BadRowPolicy(skip=data.on_bad_row.value == "skip", max_fraction=data.max_bad_fraction),
        validation_fraction=setting("validation_fraction"),
        generate_examples=setting("generate_examples"),
        weight=node.weight if name else 1.0,
        seed=seed,
        buffer=data.shuffle_buffer,
        fingerprints={
            "dataset": fingerprint_source(datasets.load(dataset["name"])),
            "template": template_sha256(template_node, template),
            "tokenizer": fingerprint_tokenizer(tokenizer),
            "tokenising": fingerprint_source(tokenize_rows),
            "libraries": " ".join(f"{name} {version(name)}" for name in ("tokenizers", "transformers")),
        },
        cache_dir=(expanded(data.cache_dir, key="data.cache_dir") if data.cache_dir else default_cache_dir())
        if data.cache
        else None,
    )


def build_mixture(data: Any, trained: Sequence[PreparedTask]) -> Mixture | None:
    """Which training examples an epoch has.

    Raises:
        ConfigError: If a task is streamed, or a weight is set that the strategy does not read.
    """
    sizes = []
    for task in trained:
        if isinstance(task.train, Stream):
            raise ConfigError(
                f"data.tasks.{task.name}.dataset.streaming=true: a stream cannot be mixed with other tasks. Read it "
                "whole, or train on it alone."
            )
        sizes.append(len(task.train))
    strategy = data.mixing.strategy.value
    weights = [task.source.weight for task in trained]
    if strategy != "weights" and set(weights) != {1.0}:
        raise ConfigError(
            f"data.mixing.strategy={strategy} reads no weights, but data.tasks sets "
            f"{', '.join(f'{task.name}.weight={task.source.weight}' for task in trained)}. "
            "Set data.mixing.strategy=weights, or leave them out."
        )
    return plan_mixture(
        sizes,
        weights=weights if strategy == "weights" else None,
        temperature=data.mixing.temperature if strategy == "temperature" else None,
        epoch_size=data.mixing.epoch_size,
    )


@contextmanager
def tokenising(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar, shown where it is worth it."""
    with progress(description, total=total, visible=total > 1000) as advance:
        yield advance


def build_datamodule(
    data: Any, prepared: PreparedData, *, pad_token_id: int, seed: int, one_row: bool = False
) -> SFTDataModule:
    """The batches of prepared data; `one_row` lays packs out for attention of variable length.

    Raises:
        DataError: If a batch would hide labels.
        ConfigError: If another process would read a stream.
    """
    train = prepared.train
    if isinstance(train, Stream) and data.num_workers > 0:
        raise ConfigError(
            f"data.num_workers={data.num_workers}: a stream is read by the process that trains, which keeps the "
            "account of its rows. Set data.num_workers=0."
        )
    capacity = data.max_length if data.packing else None
    validation = [task.validation for task in prepared.tasks]
    starts = [sum(map(len, validation[:number])) for number in range(len(validation))]
    datamodule = SFTDataModule(
        partial(train.batches, batch_size=data.batch_size, capacity=capacity) if isinstance(train, Stream) else train,
        Examples.concatenate(validation),
        pad_token_id=pad_token_id,
        loading=Loading(
            batch_size=data.batch_size,
            validation_batch_size=data.eval_batch_size,
            seed=seed,
            num_workers=data.num_workers,
            group_by_length=data.group_by_length,
            capacity=capacity,
            one_row=one_row,
        ),
        mixture=prepared.mixture,
        validation_starts=starts,
    )
    datamodule.check_labels()
    return datamodule


def generation_metrics(
    prepared: PreparedData, nodes: Sequence[Any], *, tokenizer: Any, sampling: Sampling, batch_size: int
) -> GenerationMetrics:
    """The callback that answers the validation prompts.

    Raises:
        PluginError: If a metric cannot measure an answer.
    """

    def encode(text: str) -> list[int]:
        return SegmentEncoder(tokenizer).encode_texts([text])[0]

    built = build_metrics(nodes)
    if prepared.prompts:
        for name, metric in built.items():
            try_metric(metric, name, prepared.prompts[0].reference, encode=encode)
    return GenerationMetrics(
        [prompt.ids for prompt in prepared.prompts],
        [prompt.reference for prompt in prepared.prompts],
        metrics=built,
        generate=answerer(tokenizer, sampling, batch_size=batch_size),
        tasks=[prompt.task for prompt in prepared.prompts],
        encode=encode,
    )
