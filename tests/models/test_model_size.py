import copy

import pytest
import torch
from peft import LoraConfig
from torch.utils.flop_counter import FlopCounterMode
from transformers import BitsAndBytesConfig, LlamaConfig

from ftframe.models.adapter import attach_adapter
from ftframe.models.fp8 import Fp8Config
from ftframe.models.model_size import measure_size
from ftframe.models.random_init import random_model

LORA = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
QUANT = {
    "plain": None,
    "4bit": BitsAndBytesConfig(**NF4),
    "4bit nested": BitsAndBytesConfig(**NF4, bnb_4bit_use_double_quant=True),
    "8bit": BitsAndBytesConfig(load_in_8bit=True),
    "fp8": Fp8Config(load_in_fp8=True),
}
LLAMA_2_7B = LlamaConfig(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    tie_word_embeddings=False,
)


def build(config, peft_config=None, quantization_config=None, dtype=torch.float32, in_float32=True, **options):
    base = random_model(
        config, dtype=dtype, quantization_config=quantization_config, device=torch.device("cpu"), **options
    )
    if peft_config is None:
        return base
    return attach_adapter(base, copy.deepcopy(peft_config), base_path="none", in_float32=in_float32)


def bytes_of(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def bytes_of_scales(model):
    """What a 4-bit layer keeps beside its codes."""
    states = [module.weight.quant_state for module in model.modules() if hasattr(module, "quant_state")]
    nested = [state.state2 for state in states if state.nested]
    return bytes_of([s.absmax for s in states]) + bytes_of([s.absmax for s in nested])


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("peft_config", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_figures_are_those_of_the_model_once_built(shape, tied, peft_config, dtype):
    shape.tie_word_embeddings = tied
    size = measure_size(shape, peft_config, None, dtype=dtype)
    weights = list(build(shape, peft_config, dtype=dtype).parameters())
    assert size.parameters == sum(weight.numel() for weight in build(shape).parameters())
    assert size.trained == sum(weight.numel() for weight in weights if weight.requires_grad)
    assert size.trained_bytes == bytes_of(weight for weight in weights if weight.requires_grad)
    assert size.frozen_bytes == bytes_of(weight for weight in weights if not weight.requires_grad)
    assert (size.layers, size.hidden, size.attention, size.vocabulary) == (2, 64, 64, 128)
    assert size.head_is_frozen == (peft_config is not None)
    assert size.quantised_bytes == size.largest_matrix == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_adapters_in_the_type_of_the_base(shape, dtype):
    size = measure_size(shape, LORA, None, dtype=dtype, adapters_in_float32=False)
    weights = build(shape, LORA, dtype=dtype, in_float32=False).parameters()
    assert size.trained_bytes == bytes_of(weight for weight in weights if weight.requires_grad)
    assert size.trained_bytes == size.trained * dtype.itemsize


@pytest.mark.parametrize("quant", [name for name in QUANT if name != "plain"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_bytes_of_quantised_layers_are_those_of_the_model_once_built(shape, quant, tied):
    shape.hidden_size, shape.intermediate_size, shape.head_dim = 256, 512, 64  # or else the few scales weigh too much
    shape.tie_word_embeddings = tied
    size = measure_size(shape, LORA, QUANT[quant], dtype=torch.float32)
    model = build(shape, LORA, QUANT[quant])
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    held = bytes_of(frozen) + bytes_of_scales(model)
    assert size.parameters == measure_size(shape, None, None, dtype=torch.float32).parameters
    assert size.frozen_bytes == pytest.approx(held, rel=0.01)
    linear = 2 * (256 * 256 * 2 + 256 * 128 * 2 + 256 * 512 * 3)
    kept = 256 * 4 * (128 * (1 if tied else 2) + 5)  # embeddings and norms, in float32
    assert size.quantised_bytes == pytest.approx(held - kept, rel=0.01)
    assert size.frozen_bytes - size.quantised_bytes == pytest.approx(kept)
    assert size.frozen_products == linear + 128 * 256
    assert size.largest_matrix == 256 * 512


def test_a_layer_that_is_kept_is_not_counted_as_quantised(shape):
    kept = BitsAndBytesConfig(**NF4, llm_int8_skip_modules=["mlp"])
    size = measure_size(shape, LORA, kept, dtype=torch.float32)
    assert size.largest_matrix == 64 * 64
    assert size.quantised_bytes == 2 * (2 * 64 * 64 + 2 * 64 * 32) * (0.5 + 4 / 64)


def test_llama_2_has_the_figures_that_were_published():
    lora = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    size = measure_size(LLAMA_2_7B, lora, None, dtype=torch.bfloat16)
    assert size.parameters == 6_738_415_616
    assert size.trained == size.trained_products == 39_976_960
    assert size.frozen_bytes == 2 * 6_738_415_616
    assert (size.layers, size.hidden, size.attention, size.vocabulary) == (32, 4096, 4096, 32000)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("peft_config", [None, LORA], ids=["full", "lora"])
def test_operations_are_those_that_torch_counts(shape, tied, peft_config):
    """Eager attention multiplies the whole square of which a causal token needs half: so twice the squares here."""
    shape.tie_word_embeddings = tied
    rows, length = 2, 48
    model = build(shape, peft_config, attn_implementation="eager")
    embeddings = torch.randn(rows, length, 64, requires_grad=True)  # the first layer's input has a gradient, as others
    with FlopCounterMode(display=False) as counter:
        model(inputs_embeds=embeddings).logits.sum().backward()
    size = measure_size(shape, peft_config, None, dtype=torch.float32)
    found = size.operations(rows * length, 2 * rows * length**2)
    assert found == pytest.approx(counter.get_total_flops(), rel=0.002)


def test_what_is_computed_twice_is_one_more_forward_pass(shape):
    rows, length = 2, 48
    model = build(shape, LORA, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.ones(rows, length, dtype=torch.long))
    size = measure_size(shape, LORA, None, dtype=torch.float32)
    once, again = (size.operations(rows * length, 2 * rows * length**2, passes=passes) for passes in (0, 1))
    assert again - once == pytest.approx(counter.get_total_flops(), rel=0.002)
    half = size.operations(rows * length, 2 * rows * length**2, passes=0.5)
    assert half == pytest.approx((once + again) / 2)
