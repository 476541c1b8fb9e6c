import pytest
import torch
from peft import LoraConfig
from transformers import LlamaConfig

from ftframe.models.activations import saved_bytes
from ftframe.models.adapter import attach_adapter
from ftframe.models.compiling import layers_of
from ftframe.models.random_init import random_model

from .saving import saved_storages

LORA = {"r": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
TOKENS = 2048


@pytest.fixture(autouse=True)
def fresh_compiler():
    with torch._functorch.config.patch(activation_memory_budget=1.0):
        yield
    torch._dynamo.reset()


def adapter(rank):
    return LoraConfig(**LORA | {"r": rank}) if rank else None


def saved_by_real_model(shape, peft_config, dtype, layers, *, compiles=False, autocast=None, tokens=TOKENS):
    """Bytes that a forward pass saves, weights apart, of a model with so many layers."""
    shape.num_hidden_layers, shape.use_cache = layers, False
    model = random_model(shape, dtype=dtype, quantization_config=None, device=torch.device("cpu"))
    if peft_config is not None:
        model = attach_adapter(model, peft_config, base_path="none", in_float32=True)
    model.train()
    base = model.get_base_model() if peft_config is not None else model
    if compiles:
        for layer in layers_of(model):
            layer.compile(backend="aot_eager_decomp_partition", fullgraph=True)
    hidden = torch.randn(1, tokens, shape.hidden_size, dtype=dtype, requires_grad=True)
    with (
        saved_storages(model) as storages,
        torch.autocast("cpu", dtype=autocast, enabled=autocast is not None),
    ):
        base.get_decoder()(inputs_embeds=hidden, attention_mask=None)
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize(
    ("rank", "dtype", "autocast", "compiles"),
    [
        (0, torch.float32, None, False),
        (8, torch.float32, None, False),
        (8, torch.bfloat16, None, False),
        (8, torch.bfloat16, torch.bfloat16, False),
        pytest.param(0, torch.float32, None, True, marks=pytest.mark.slow),
        pytest.param(8, torch.bfloat16, None, True, marks=pytest.mark.slow),
    ],
    ids=["full", "lora", "lora over bfloat16", "lora under autocast", "full compiled", "lora over bfloat16 compiled"],
)
def test_counted_bytes_are_those_that_a_real_layer_saves(shape, rank, dtype, autocast, compiles):
    counted = saved_bytes(shape, adapter(rank), dtype=dtype, autocast=autocast, compiles=compiles)
    one, three = (
        saved_by_real_model(shape, adapter(rank), dtype, layers, compiles=compiles, autocast=autocast)
        for layers in (1, 3)
    )
    assert counted.of(TOKENS) == pytest.approx((three - one) / 2, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [256, 8192])
def test_weights_that_autocast_casts_are_no_matter_of_tokens(shape, tokens):
    types = {"dtype": torch.float32, "autocast": torch.bfloat16, "compiles": True}
    counted = saved_bytes(shape, None, **types)
    assert counted.fixed > 0
    one, three = (saved_by_real_model(shape, None, layers=layers, tokens=tokens, **types) for layers in (1, 3))
    assert counted.of(tokens) == pytest.approx((three - one) / 2, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [64, 512, 2048, 4096])
def test_of_a_budget_what_is_counted_is_right_for_the_micro_batch(shape, tokens):
    types = {"dtype": torch.float32, "autocast": torch.bfloat16, "compiles": True}
    counted = saved_bytes(shape, None, **types, share=0.5, tokens=tokens)
    with torch._functorch.config.patch(activation_memory_budget=0.5):
        one, three = (saved_by_real_model(shape, None, layers=layers, tokens=tokens, **types) for layers in (1, 3))
    assert 0 < counted.of(tokens) == pytest.approx((three - one) / 2, rel=0.02)
    assert counted.of(tokens) < saved_bytes(shape, None, **types).of(tokens)


@pytest.mark.slow
def test_a_smaller_budget_never_saves_more(shape):
    config = adapter(8)
    shares = (1.0, 0.2)
    saved = [saved_bytes(shape, config, dtype=torch.bfloat16, compiles=True, share=s).of(1) for s in shares]
    assert saved == sorted(saved, reverse=True)
    assert saved[-1] < 0.5 * saved[0]
    assert torch._functorch.config.activation_memory_budget == 1.0


@pytest.mark.parametrize("layers", [2, 32])
def test_bytes_are_those_of_one_layer_whatever_their_number(shape, layers):
    shape.num_hidden_layers = 1
    one = saved_bytes(shape, None, dtype=torch.float32)
    shape.num_hidden_layers = layers
    assert saved_bytes(shape, None, dtype=torch.float32) == one
    assert shape.num_hidden_layers == layers


def test_a_large_model_is_counted_without_its_weights():
    large = LlamaConfig(hidden_size=8192, intermediate_size=28672, num_attention_heads=64, num_key_value_heads=8)
    saved = saved_bytes(large, adapter(16), dtype=torch.bfloat16).of(1)
    assert 2 * (6 * 8192 + 4 * 28672) < saved < 2 * (16 * 8192 + 8 * 28672)


def test_what_cannot_be_built_is_not_counted(shape, caplog):
    elsewhere = LoraConfig(r=4, target_modules=["query_key_value"])
    assert saved_bytes(shape, elsewhere, dtype=torch.float32) is None
    assert "the activations of llama cannot be counted" in caplog.text


def test_a_model_without_layers_of_the_librarys_own_is_not_counted(shape, monkeypatch, caplog):
    monkeypatch.setattr("ftframe.models.activations.layers_of", lambda decoder: [])
    assert saved_bytes(shape, None, dtype=torch.float32) is None
    assert "cannot be counted" in caplog.text
