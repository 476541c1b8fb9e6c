"""Answer prompts with a model, and measure the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import lightning as L  # noqa: N812 (the library's own abbreviation)
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torchmetrics import Metric
from transformers import GenerationConfig

from ftframe.errors import PluginError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen, and when an answer ends.

    Attributes:
        stop_token_ids: Each of them ends the answer.
        pad_token_id: What fills the places before short prompts and behind short answers.
        max_new_tokens: Longest answer.
        temperature: 0 takes the likeliest token each time.
        top_p: Smallest set of likeliest tokens that holds this probability.
    """

    stop_token_ids: Sequence[int]
    pad_token_id: int
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0

    def to_generation_config(self) -> GenerationConfig:
        """The same in transformers' words."""
        sampled = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            eos_token_id=list(self.stop_token_ids),
            pad_token_id=self.pad_token_id,
            use_cache=True,
            **(sampled if self.temperature > 0 else {"do_sample": False}),
        )


@torch.no_grad()
def generate_batch(model: Any, prompts: Sequence[Sequence[int]], *, sampling: Sampling) -> list[list[int]]:
    """The token ids of each prompt's answer, without the stop token.

    Args:
        model: A transformers or PEFT causal language model.
        prompts: Token ids of each prompt; padded on the left here.
        sampling: How to choose tokens.
    """
    longest = max(len(prompt) for prompt in prompts)
    padded = [[sampling.pad_token_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    was_training = model.training
    model.eval()
    output = model.generate(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        generation_config=sampling.to_generation_config(),
    )
    model.train(was_training)
    stops = set(sampling.stop_token_ids)
    return [_until(answer, stops) for answer in output[:, longest:].tolist()]


def _until(tokens: list[int], stops: set[int]) -> list[int]:
    """Tokens before the first stop token."""
    return next((tokens[:i] for i, token in enumerate(tokens) if token in stops), tokens)


class Answer(NamedTuple):
    """What a model answered.

    Attributes:
        position: Which prompt.
        text: The answer.
        tokens: The same as token ids, as they were generated, without the token that ended it.
    """

    position: int
    text: str
    tokens: list[int]


Generate = Callable[[Any, Sequence[Sequence[int]]], Iterable[Answer]]
"""From a model and the token ids of prompts to the answers, in any order."""


def generate_answers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    decode: Callable[[list[int]], str],
    sampling: Sampling,
    batch_size: int,
) -> Iterator[Answer]:
    """Answers as they come; prompts of like length share a batch."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        answers = generate_batch(model, [prompts[i] for i in indices], sampling=sampling)
        yield from (Answer(i, decode(tokens), tokens) for i, tokens in zip(indices, answers, strict=True))


class GenerationMetrics(Callback):
    """Generates answers to the validation prompts in `Trainer.validate`, and logs `val/<metric>` of them.

    Not in the validations inside `Trainer.fit`, which would take many times as long. Each rank answers its share.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        references: Sequence[str],
        *,
        metrics: Mapping[str, Metric],
        generate: Generate,
        encode: Callable[[str], list[int]] = lambda text: [],
        tasks: Sequence[str] = (),
    ) -> None:
        """Keep what is needed.

        Args:
            prompts: Token ids of each prompt.
            references: The right answer to each.
            metrics: Metrics by the name they are logged under; the `kind` of each says what it is fed with.
            generate: Answers the prompts, as `generate_answers` does.
            encode: From a reference to the token ids that training would have taught, for metrics of the kind `tokens`.
            tasks: The name of each prompt's task; the metrics of a task with a name are logged apart, too.
        """
        self.answers: dict[int, str] = {}
        self._prompts = prompts
        self._references = references
        self._metrics = metrics
        self._generate = generate
        self._encode = encode
        self._tasks = tasks or [""] * len(prompts)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Generate, measure and log."""
        if trainer.state.fn != TrainerFn.VALIDATING or not self._prompts:
            return
        mine = list(range(trainer.global_rank, len(self._prompts), trainer.world_size))
        self.answers = {}
        tokens: dict[int, list[int]] = {}
        for position, text, ids in self._generate(pl_module.model, [self._prompts[i] for i in mine]):
            self.answers[mine[position]] = text
            tokens[mine[position]] = ids
        self._measure(pl_module, "val", mine, tokens)
        for task in dict.fromkeys(filter(None, self._tasks)):
            self._measure(pl_module, f"val/{task}", [i for i in mine if self._tasks[i] == task], tokens)

    def _measure(
        self, pl_module: L.LightningModule, prefix: str, mine: Sequence[int], tokens: Mapping[int, list[int]]
    ) -> None:
        """Log each metric of some of this rank's answers, over all ranks."""
        for name, metric in self._metrics.items():
            metric.reset()
            metric.to(pl_module.device)
            if mine:
                metric.update(*self._pairs(metric, mine, tokens))
            pl_module.log(f"{prefix}/{name}", metric.compute().float())

    def _pairs(
        self, metric: Metric, indices: Sequence[int], tokens: Mapping[int, list[int]]
    ) -> tuple[list[Any], list[Any]]:
        """Predictions and references of these prompts, as the metric's kind wants them."""
        if kind_of(metric) == "tokens":
            return [tokens[i] for i in indices], [self._encode(self._references[i]) for i in indices]
        return [self.answers[i] for i in indices], [self._references[i] for i in indices]


def try_metric(metric: Metric, name: str, reference: str, *, encode: Callable[[str], list[int]]) -> None:
    """Measure a right answer and an empty one: what a metric cannot do is better known before training than after.

    Args:
        metric: The metric; it counts nothing afterwards.
        name: For messages.
        reference: A right answer of the run's data.
        encode: From a text to token ids, for metrics of the kind `tokens`.

    Raises:
        PluginError: If it fails, or does not give one number.
    """
    pairs: tuple[list[Any], list[Any]] = ([reference, ""], [reference, reference])
    if kind_of(metric) == "tokens":
        pairs = ([encode(text) for text in pairs[0]], [encode(text) for text in pairs[1]])
    try:
        metric.update(*pairs)
        value = metric.compute()
        metric.reset()
    except Exception as error:  # a plugin may raise anything
        raise PluginError(
            f"The metric '{name}' cannot measure an answer: {type(error).__name__}: {error}\n"
            f"It was tried with the right answer {reference[:80]!r} and with an empty one."
        ) from error
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        given = f"a tensor of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise PluginError(f"The metric '{name}' computes {given}; a tensor of one number is needed.")


def kind_of(metric: Metric) -> str:
    """What a metric is fed with, `text` or `tokens`; a class that does not say so means text."""
    return str(getattr(metric, "kind", "text"))
