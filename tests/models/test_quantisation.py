import pytest
import torch
from transformers import BitsAndBytesConfig

from ftframe.models.fp8 import Fp8Config
from ftframe.models.quantisation import build_quantisation, bytes_per_weight, is_fp8, kept_layers
from ftframe.models.random_init import quantised_linear, random_model

CPU = torch.device("cpu")
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
CONFIGS = {
    "nf4": BitsAndBytesConfig(**NF4),
    "nf4 nested": BitsAndBytesConfig(**NF4, bnb_4bit_use_double_quant=True),
    "fp4 nested": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True),
    "8bit": BitsAndBytesConfig(load_in_8bit=True),
    "fp8": Fp8Config(),
}


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (None, type(None)),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, BitsAndBytesConfig),
        ({"load_in_8bit": True}, BitsAndBytesConfig),
        ({"load_in_fp8": True}, Fp8Config),
    ],
    ids=["none", "4bit", "8bit", "fp8"],
)
def test_options_give_the_config_of_their_kind(options, kind):
    config = build_quantisation(options)
    assert type(config) is kind
    assert is_fp8(config) == (kind is Fp8Config)
    for name, value in (options or {}).items():
        assert getattr(config, name) == value


@pytest.mark.parametrize("name", ["load_in_fp8", "load_in_4bit"])
def test_named_layers_come_from_the_options(name):
    config = build_quantisation({name: True, "llm_int8_skip_modules": ["down_proj"]})
    assert config.llm_int8_skip_modules == ["down_proj"]


@pytest.fixture
def model(shape):
    return random_model(shape, dtype=torch.float32, quantization_config=None, device=CPU)


@pytest.mark.parametrize(
    ("skip", "expected"),
    [
        (None, {"lm_head"}),
        (["down_proj"], {"lm_head", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"}),
        (["down"], {"lm_head"}),
    ],
    ids=["none named", "named", "part of a name"],
)
@pytest.mark.parametrize("kind", [Fp8Config, BitsAndBytesConfig])
def test_kept_layers(model, kind, skip, expected):
    assert kept_layers(model, kind(llm_int8_skip_modules=skip)) == expected


def test_a_name_may_be_that_of_a_whole_part(model):
    kept = kept_layers(model, Fp8Config(llm_int8_skip_modules=["self_attn"]))
    layers = {name for name, module in model.named_modules() if type(module) is torch.nn.Linear}
    assert kept & layers == {name for name in layers if ".self_attn." in name} | {"lm_head"}


def test_nothing_is_kept_where_nothing_is_quantised(model):
    assert kept_layers(model, None) == set()


def stored_bytes(layer):
    """Of the weights and their scales; tables of a fixed size do not count."""
    tensors = [layer.weight.data]
    state = getattr(layer.weight, "quant_state", None)
    if state is not None:
        tensors += [state.absmax, *([state.state2.absmax] if state.nested else [])]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_bytes_per_weight_are_those_that_are_stored(config):
    linear = torch.nn.Linear(512, 256, bias=False)
    expected = stored_bytes(quantised_linear(linear, config)) / linear.weight.numel()
    assert bytes_per_weight(config) == expected
