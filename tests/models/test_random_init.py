import weakref

import bitsandbytes as bnb
import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from ftframe.models.fp8 import Fp8Config
from ftframe.models.random_init import quantised_linear, random_model

CPU = torch.device("cpu")
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


def build(shape, quantization_config=None, **options):
    return random_model(shape, dtype=torch.float32, quantization_config=quantization_config, device=CPU, **options)


def test_same_distribution_as_the_library(shape):
    model = build(shape)
    reference = AutoModelForCausalLM.from_config(shape)
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in reference.named_parameters()}
    for (name, ours), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.2, abs=1e-6), name
    assert torch.equal(model.model.rotary_emb.inv_freq, reference.model.rotary_emb.inv_freq)


def test_seed_decides(shape):
    first, again, other = build(shape, seed=1), build(shape, seed=1), build(shape, seed=2)
    weight = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(first.state_dict()[weight], again.state_dict()[weight])
    assert not torch.equal(first.state_dict()[weight], other.state_dict()[weight])


def test_callers_random_state_is_kept(shape):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build(shape)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("options", "layer"),
    [(NF4, bnb.nn.Linear4bit), ({"load_in_8bit": True}, bnb.nn.Linear8bitLt)],
    ids=["4bit", "8bit"],
)
def test_quantised_like_a_loaded_checkpoint(shape, tmp_path, options, layer):
    """Built straight in the quantised form, or written in float32 and loaded by transformers: the same outputs."""
    quantization_config = BitsAndBytesConfig(**options)
    build(shape, seed=3).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(**options), dtype=torch.float32, device_map={"": "cpu"}
    )
    model = build(shape, quantization_config, seed=3)
    names = {name for name, module in model.named_modules() if isinstance(module, layer)}
    assert names == {name for name, module in loaded.named_modules() if isinstance(module, layer)}
    assert len(names) == 7 * shape.num_hidden_layers
    tokens = torch.randint(0, 128, (2, 10))
    with torch.no_grad():
        assert torch.allclose(model(tokens).logits, loaded(tokens).logits, atol=1e-5)


def test_named_layers_are_skipped(shape):
    model = build(shape, BitsAndBytesConfig(**NF4, llm_int8_skip_modules=["down_proj"]))
    kinds = {name.rpartition(".")[2]: type(module) for name, module in model.named_modules()}
    assert kinds["down_proj"] is torch.nn.Linear
    assert kinds["up_proj"] is bnb.nn.Linear4bit
    assert kinds["lm_head"] is torch.nn.Linear


def test_tied_embeddings_stay_tied(shape):
    shape.tie_word_embeddings = True
    model = build(shape, BitsAndBytesConfig(**NF4))
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(
    "quantization_config",
    [BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32), Fp8Config()],
    ids=["4 bits", "FP8"],
)
def test_one_layer_at_a_time_is_held_unquantised(shape, quantization_config, monkeypatch):
    drawn = []

    def watched(linear, config):
        held = [reference for reference in drawn if reference() is not None]
        assert not held, f"{len(held)} layers of before are still there"
        drawn.append(weakref.ref(linear))
        return quantised_linear(linear, config)

    monkeypatch.setattr("ftframe.models.random_init.quantised_linear", watched)
    random_model(shape, dtype=torch.float32, quantization_config=quantization_config, device=torch.device("cpu"))
    assert len(drawn) == 14
