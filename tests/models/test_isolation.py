import random

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoConfig, BitsAndBytesConfig

from ftframe.errors import ConfigError
from ftframe.models.isolation import check_isolation
from ftframe.models.random_init import random_model
from ftframe.models.varlen_attention import register_varlen_attention

from .packs import SHAPE, WINDOW, build

register_varlen_attention()

EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
JAMBA = {"use_mamba_kernels": False, "num_experts": 2}
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}


def quantised(**options):
    config = AutoConfig.for_model("llama", **SHAPE)
    return random_model(
        config,
        dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(**options),
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("model_type", "attention", "changes"),
    [
        ("llama", "sdpa", {}),
        ("llama", "eager", {}),
        ("llama", "varlen", {}),
        ("mistral", "sdpa", WINDOW),
        ("mistral", "varlen", WINDOW),
        ("gemma2", "eager", {"head_dim": 16, **WINDOW}),
        ("gpt2", "sdpa", {}),  # its positions are learnt
        ("mixtral", "sdpa", EXPERTS),  # its experts gather tokens of all examples
    ],
)
def test_isolated(model_type, attention, changes, dtype):
    check_isolation(build(model_type, attention, **changes).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("model_type", "changes", "why"),
    [
        ("mamba", {}, "takes no position_ids"),
        ("rwkv", {}, "takes no position_ids"),
        ("bloom", {}, "takes no position_ids"),
        ("jamba", JAMBA, "moves the logits of the next"),  # every other layer is recurrent
        ("opt", {}, "moves the logits of the next"),  # its mask is made without the positions
        ("llama", {"use_cache": True}, "moves the logits of the next"),
    ],
    ids=["mamba", "rwkv", "alibi", "hybrid", "mask", "cache"],
)
def test_not_isolated(model_type, changes, why, dtype):
    model = build(model_type, "eager", **changes).to(dtype)
    with pytest.raises(ConfigError, match=why) as refusal:
        check_isolation(model)
    for words in ("data.packing=true", f"'{model_type}'", "attn_implementation=eager", "Set data.packing=false"):
        assert words in str(refusal.value)


@pytest.mark.parametrize("options", [NF4, {"load_in_8bit": True}], ids=["4bit", "8bit"])
@pytest.mark.parametrize("adapter", [False, True], ids=["base", "lora"])
def test_quantised(options, adapter):
    model = quantised(**options)
    if adapter:
        options = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
        model = get_peft_model(model, options)
    check_isolation(model)


def test_outliers_of_an_8bit_model_are_no_leak():
    """A token's outlier makes its column 16-bit for every token of the batch, in a pack or not."""
    model = quantised(load_in_8bit=True)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.input_layernorm.weight.mul_(3)
    check_isolation(model)


def test_a_quantised_model_that_leaks_is_refused():
    model = quantised(load_in_8bit=True)
    model.config.use_cache = True
    with pytest.raises(ConfigError, match="use_cache"):
        check_isolation(model)


def test_a_mask_that_someone_adds_is_refused(monkeypatch):
    """An all-ones mask switches off transformers' search for packs, without a word."""
    model = build("llama", "sdpa")
    forward = model.model.forward

    def with_mask(input_ids, attention_mask=None, **kwargs):
        return forward(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **kwargs)

    monkeypatch.setattr(model.model, "forward", with_mask)
    with pytest.raises(ConfigError, match="moves the logits"):
        check_isolation(model)


def test_positions_that_do_not_restart_are_refused(monkeypatch):
    model = build("gpt2", "sdpa")
    embed = model.transformer.wpe.forward
    monkeypatch.setattr(model.transformer.wpe, "forward", lambda ids: embed(torch.arange(ids.shape[-1])[None]))
    with pytest.raises(ConfigError, match="those that it has alone"):
        check_isolation(model)


def test_prompt_tuning_drops_the_positions():
    model = get_peft_model(build("llama", "sdpa"), PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    with pytest.raises(ConfigError, match="model type 'llama'"), pytest.warns(UserWarning, match="Position ids"):
        check_isolation(model)


@pytest.mark.parametrize("fails", [False, True], ids=["isolated", "refused"])
def test_leaves_the_model_and_the_random_state_alone(fails):
    model = build("llama", "sdpa", attention_dropout=0.5, use_cache=fails).train()
    model.model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    random.seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    if fails:
        with pytest.raises(ConfigError):
            check_isolation(model)
    else:
        check_isolation(model)
    assert torch.equal(torch.rand(2), expected)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_under_autocast():
    """Float32 weights that are computed with in bfloat16 are held to bfloat16's rounding."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check_isolation(build("qwen3", "varlen", head_dim=16))
        with pytest.raises(ConfigError):
            check_isolation(build("llama", "sdpa", use_cache=True))
