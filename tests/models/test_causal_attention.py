import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen3NextConfig

from ftframe.models import causal_attention as module
from ftframe.models.causal_attention import (
    CAUSAL,
    CUDNN,
    gains_from_cudnn,
    register_causal_attention,
    sees_all_before,
)
from ftframe.models.varlen_attention import model_inputs

from .packs import WINDOW, build, make_examples, make_pack

register_causal_attention()

TOKENS = torch.arange(3, 43).view(2, 20)
MASK = torch.ones_like(TOKENS)
MASK[1, 13:] = 0
BATCHES = {
    "whole rows": lambda: {"input_ids": TOKENS},
    "padded": lambda: {"input_ids": TOKENS, "attention_mask": MASK},
    "packed": lambda: make_pack(make_examples(), varlen=False).inputs("sdpa"),
}
MODELS = {"llama": {}, "mistral": WINDOW, "qwen2": {}}


def logits_and_gradients(model, inputs):
    logits = model(**inputs).logits
    model.zero_grad()
    logits.square().sum().backward()
    return [logits, *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("inputs", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("model_type", MODELS)
def test_equals_sdpa(model_type, inputs, training):
    models = (build(model_type, name, **MODELS[model_type]).train(training) for name in ("sdpa", CUDNN))
    expected, found = (logits_and_gradients(model, inputs()) for model in models)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_cudnn_comes_first_while_training_and_nothing_is_chosen_otherwise(monkeypatch):
    orders = []

    def sdpa_attention_forward(*args, **kwargs):
        orders.append(torch._C._get_sdp_priority_order())
        return theirs(*args, **kwargs)

    theirs = module.sdpa_attention_forward
    monkeypatch.setattr(module, "sdpa_attention_forward", sdpa_attention_forward)
    before = torch._C._get_sdp_priority_order()
    model = build("llama", CUDNN)
    for training in (False, True):
        model.train(training)(TOKENS)
    assert len(orders) == 4
    assert orders[:2] == [before, before]
    first = int(torch.nn.attention.SDPBackend.CUDNN_ATTENTION)
    assert [order[0] for order in orders[2:]] == [first, first]
    assert torch._C._get_sdp_priority_order() == before


def test_registering_twice_does_no_harm():
    register_causal_attention()
    register_causal_attention()
    assert build("llama", CUDNN).config._attn_implementation == CUDNN


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "expected"),
    [
        ("cpu", torch.bfloat16, (9, 0), False),
        ("cuda", torch.float32, (9, 0), False),
        ("cuda", torch.bfloat16, (8, 9), False),
        ("cuda", torch.bfloat16, (9, 0), True),
        ("cuda", torch.float16, (10, 0), True),
    ],
    ids=["cpu", "float32", "ada", "hopper", "blackwell"],
)
def test_gains_on_recent_gpus_in_16_bits(device, dtype, capability, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    assert gains_from_cudnn(torch.device(device), dtype) is expected


def test_gains_nothing_without_cudnn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: False)
    assert not gains_from_cudnn(torch.device("cuda"), torch.bfloat16)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", [CAUSAL, CUDNN])
@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_rows_padded_on_the_right_need_no_mask(model_type, name, training):
    expected = build(model_type, "sdpa").train(training)(TOKENS, attention_mask=MASK).logits
    inputs = model_inputs({"input_ids": TOKENS, "attention_mask": MASK}, name)
    assert inputs["attention_mask"].numel() == 0
    found = build(model_type, name).train(training)(**inputs).logits
    assert torch.allclose(found[MASK == 1], expected[MASK == 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LlamaConfig(), True),
        (MistralConfig(sliding_window=None), True),
        (MistralConfig(sliding_window=128), True),
        (MistralConfig(sliding_window=127), False),
        (Gemma3TextConfig(sliding_window=64), False),
        (Qwen3NextConfig(), False),
    ],
    ids=["all before", "no window", "window of a row", "smaller window", "mixed layers", "linear attention"],
)
def test_only_models_whose_tokens_see_all_before_them(config, expected):
    assert sees_all_before(config, 128) is expected
