"""Answers of a small random model."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import LlamaConfig

from ftframe.errors import PluginError
from ftframe.metrics.generation import (
    Answer,
    GenerationMetrics,
    Sampling,
    generate_answers,
    generate_batch,
    try_metric,
)
from ftframe.metrics.text import ExactMatch
from ftframe.models.random_init import random_model

LENGTHS = (1, 5, 17, 3, 9, 12)
NEW = 12


@pytest.fixture(scope="module")
def model():
    """A Llama whose likeliest token is far from its second: weights ten times as wide as usual."""
    shape = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    return random_model(shape, dtype=torch.float32, quantization_config=None, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def prompts():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 128, (n,), generator=generator).tolist() for n in LENGTHS]


@pytest.fixture(scope="module")
def alone(model, prompts):
    """Each prompt's answer by transformers itself, without padding or a stop token."""
    answers = []
    for prompt in prompts:
        tokens = torch.tensor([prompt])
        output = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        answers.append(output[0, len(prompt) :].tolist())
    assert [len(answer) for answer in answers] == [NEW] * len(LENGTHS)
    assert len({tuple(answer) for answer in answers}) == len(LENGTHS)
    return answers


def sampling(**changed):
    return Sampling(**{"stop_token_ids": [], "pad_token_id": 0, "max_new_tokens": NEW, **changed})


@pytest.mark.parametrize("pad", [0, 7], ids=["pad 0", "pad that is a word"])
def test_left_padding_changes_no_answer(model, prompts, alone, pad):
    assert generate_batch(model, prompts, sampling=sampling(pad_token_id=pad)) == alone


@pytest.mark.parametrize("position", [0, 1, 5])
def test_answer_ends_before_its_stop_token(model, prompts, alone, position):
    stop = alone[2][position]
    found = generate_batch(model, prompts, sampling=sampling(stop_token_ids=[stop]))
    expected = [answer[: answer.index(stop)] if stop in answer else answer for answer in alone]
    assert found == expected
    assert len(found[2]) <= position
    assert any(len(answer) == NEW for answer in found)  # the others go on


def test_each_of_several_stop_tokens_ends_an_answer(model, prompts, alone):
    stops = [alone[0][4], alone[3][2]]
    found = generate_batch(model, prompts, sampling=sampling(stop_token_ids=stops))
    first = [min((a.index(s) for s in stops if s in a), default=NEW) for a in alone]
    assert found == [answer[:end] for answer, end in zip(alone, first, strict=True)]
    assert first[0] <= 4 and first[3] <= 2


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored_and_no_gradient_kept(model, prompts, alone, training):
    model.train(training)
    try:
        assert generate_batch(model, prompts[:2], sampling=sampling()) == alone[:2]
        assert model.training is training
    finally:
        model.eval()
    assert all(p.grad is None for p in model.parameters())


def test_temperature_samples_and_the_seed_repeats(model, prompts, alone):
    hot = sampling(temperature=5.0)
    torch.manual_seed(0)
    first = generate_batch(model, prompts, sampling=hot)
    second = generate_batch(model, prompts, sampling=hot)
    torch.manual_seed(0)
    assert generate_batch(model, prompts, sampling=hot) == first
    assert first != second
    assert first != alone


def test_narrow_top_p_is_greedy(model, prompts, alone):
    assert generate_batch(model, prompts, sampling=sampling(temperature=1.0, top_p=1e-6)) == alone


def text(tokens):
    return " ".join(map(str, tokens))


@pytest.mark.parametrize("batch_size", [1, 4, 6, 100])
def test_every_index_comes_once_with_its_own_answer(model, prompts, alone, batch_size):
    pairs = list(generate_answers(model, prompts, decode=text, sampling=sampling(), batch_size=batch_size))
    assert sorted(pair.position for pair in pairs) == list(range(len(LENGTHS)))
    assert {pair.position: pair.text for pair in pairs} == {i: text(answer) for i, answer in enumerate(alone)}
    assert {pair.position: pair.tokens for pair in pairs} == dict(enumerate(alone))


def test_longest_prompts_come_first(model, prompts):
    """The batch that needs the most memory is the first: it fails at once or not at all."""
    pairs = generate_answers(model, prompts, decode=text, sampling=sampling(), batch_size=2)
    assert [LENGTHS[pair.position] for pair in pairs] == sorted(LENGTHS, reverse=True)


def test_no_prompt_no_answer(model):
    assert list(generate_answers(model, [], decode=text, sampling=sampling(), batch_size=2)) == []


class Module(nn.Module):
    """What the callback needs of a LightningModule."""

    model = None
    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.logged = {}

    def log(self, name, value):
        self.logged[name] = value.item()


class Trainer:
    """What the callback needs of a Trainer."""

    def __init__(self, fn, rank=0, size=1):
        self.state, self.global_rank, self.world_size = SimpleNamespace(fn=fn), rank, size


class Fed(ExactMatch):
    """Keeps what it is fed with."""

    def update(self, preds, target):
        self.fed = (preds, target)
        self.total += 1


class FedTokens(Fed):
    """The same for token ids."""

    kind = "tokens"


def callback(answers, references, **metrics):
    def generate(_, prompts):
        for i, prompt in reversed(list(enumerate(prompts))):
            yield Answer(i, answers[prompt[0]], [prompt[0], 7])

    prompts = [[i] for i in range(len(answers))]
    metrics = metrics or {"exact": ExactMatch()}
    return GenerationMetrics(prompts, references, metrics=metrics, generate=generate, encode=lambda text: [ord(text)])


@pytest.mark.parametrize(
    ("rank", "size", "expected", "share"),
    [(0, 1, {0: "a", 1: "b", 2: "c"}, 2 / 3), (0, 2, {0: "a", 2: "c"}, 1.0), (1, 2, {1: "b"}, 0.0)],
    ids=["alone", "first of two", "second of two"],
)
def test_each_rank_answers_its_share(rank, size, expected, share):
    metrics, module = callback(["a", "b", "c"], ["a", "x", "c"]), Module()
    for _ in range(2):  # a second validation starts anew
        metrics.on_validation_epoch_end(Trainer("validate", rank, size), module)
        assert metrics.answers == expected
        assert module.logged == {"val/exact": pytest.approx(share)}


def test_validations_inside_of_fit_generate_nothing():
    metrics, module = callback(["a"], ["a"]), Module()
    metrics.on_validation_epoch_end(Trainer("fit"), module)
    assert (metrics.answers, module.logged) == ({}, {})


@pytest.mark.parametrize(("rank", "size", "mine"), [(0, 1, [0, 1, 2]), (1, 2, [1])], ids=["alone", "second of two"])
def test_a_metric_is_fed_by_its_kind(rank, size, mine):
    """Token ids of answers are those that were generated, not their text tokenised again."""
    fed = {"text": Fed(), "tokens": FedTokens()}
    callback("abc", "axc", **fed).on_validation_epoch_end(Trainer("validate", rank, size), Module())
    assert fed["text"].fed == (["abc"[i] for i in mine], ["axc"[i] for i in mine])
    assert fed["tokens"].fed == ([[i, 7] for i in mine], [[ord("axc"[i])] for i in mine])


def test_reference_tokens_are_those_that_training_teaches():
    """As `ftframe.preparation` encodes them: the labels of the answer, without the token that ends it."""
    from ftframe.api import Message
    from ftframe.data.prompt_templates import Plain
    from ftframe.data.segments import SegmentEncoder
    from ftframe.data.supervision import tokenize_conversation
    from ftframe.testing import embedded_tokenizer

    tokenizer = embedded_tokenizer()
    for answer in ("bugle", " two words ", "1,234 </s>"):
        turns = [Message("user", "Which?"), Message("assistant", answer)]
        labels = tokenize_conversation(turns, template=Plain(), tokenizer=tokenizer)["labels"]
        assert [*SegmentEncoder(tokenizer).encode_texts([answer])[0], tokenizer.eos_token_id] == [
            label for label in labels if label >= 0
        ]


class Faulty(ExactMatch):
    """A metric with a fault of its own."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def compute(self):
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (ValueError("nope"), "cannot measure an answer: ValueError: nope"),
        (torch.zeros(3), r"computes a tensor of shape \[3\]; a tensor of one number is needed"),
        ({"a": 1}, "computes dict; a tensor of one number is needed"),
    ],
    ids=["raises", "shape", "dict"],
)
def test_a_metric_that_cannot_measure_is_refused_before_training(value, message):
    with pytest.raises(PluginError, match=f"The metric 'mine' {message}"):
        try_metric(Faulty(value), "mine", "yes", encode=lambda text: [len(text)])


def test_a_sound_metric_has_counted_nothing_after_the_trial():
    metric = ExactMatch()
    try_metric(metric, "exact", "yes", encode=lambda text: [len(text)])
    assert metric.total == 0
    fed = FedTokens()
    try_metric(fed, "tokens", "yes", encode=lambda text: [len(text)])
