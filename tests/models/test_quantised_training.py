"""bitsandbytes on a CPU: what a validation before training must not change."""

import pytest
import torch
from peft import LoraConfig
from transformers import BitsAndBytesConfig

from ftframe.models.adapter import attach_adapter
from ftframe.models.base import BaseSpec, build_base_model

CPU = torch.device("cpu")
QUANT = {
    "none": None,
    "4bit": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.bfloat16,
    },
    "8bit": {"load_in_8bit": True},
}
SHAPE = {
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def build(quant, **options):
    quantization_config = BitsAndBytesConfig(**QUANT[quant]) if QUANT[quant] else None
    spec = BaseSpec("none", init="random", config=SHAPE)
    base = build_base_model(spec, dtype=torch.float32, quantization_config=quantization_config, device=CPU)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False, **options)
    torch.manual_seed(0)
    return attach_adapter(base, config, base_path="none", in_float32=True)


def gradients(model, tokens):
    model.train()
    model(tokens, labels=tokens).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("quant", QUANT)
def test_validation_before_training_changes_no_gradient(quant):
    tokens = torch.arange(3, 43).view(2, 20)
    expected = gradients(build(quant), tokens)
    model = build(quant)
    with torch.no_grad():
        model.eval()(tokens)
    found = gradients(model, tokens)
    assert len(found) == 28
    for name, gradient in found.items():
        assert torch.equal(gradient, expected[name]), name
        assert gradient.abs().sum() > 0, name


def test_gradient_flows_through_the_quantised_base():
    """The embedding's gradient exists only if every 4-bit layer hands it back."""
    model = build("4bit")
    embedding = model.get_input_embeddings().weight
    embedding.requires_grad_(True)
    tokens = torch.arange(3, 43).view(2, 20)
    with torch.no_grad():
        model.eval()(tokens)
    model.disable_adapter_layers()
    model.train()(tokens, labels=tokens).loss.backward()
    reference = build("none")
    weight = reference.get_input_embeddings().weight
    weight.requires_grad_(True)
    reference.disable_adapter_layers()
    reference.train()(tokens, labels=tokens).loss.backward()
    cosine = torch.nn.functional.cosine_similarity(embedding.grad.flatten(), weight.grad.flatten(), dim=0)
    assert cosine > 0.97


@pytest.mark.parametrize("quant", ["none", "4bit"])
def test_fresh_dora_is_the_base(quant):
    tokens = torch.arange(3, 43).view(2, 20)
    quantization_config = BitsAndBytesConfig(**QUANT[quant]) if QUANT[quant] else None
    spec = BaseSpec("none", init="random", config=SHAPE)
    base = build_base_model(spec, dtype=torch.float32, quantization_config=quantization_config, device=CPU).eval()
    with torch.no_grad():
        expected = base(tokens).logits
        config = LoraConfig(r=4, use_dora=True, target_modules="all-linear", task_type="CAUSAL_LM")
        found = attach_adapter(base, config, base_path="none", in_float32=True).eval()(tokens).logits
    assert torch.allclose(found, expected, atol=1e-5)
