"""Adapters on a small random base: attached, saved, loaded, refused."""

import pytest
import torch
from peft import LoraConfig
from transformers import BitsAndBytesConfig, LlamaConfig

from ftframe.errors import ConfigError, FtframeError
from ftframe.models.adapter import attach_adapter, check_adapter, load_adapter, save_adapter
from ftframe.models.random_init import random_model

CPU = torch.device("cpu")
OPTIONS = {"lora": {}, "dora": {"use_dora": True}, "rslora": {"use_rslora": True}}


def base_of(shape, *, layers=2, dtype=torch.float32):
    shape = LlamaConfig(**{**shape.to_dict(), "num_hidden_layers": layers})
    return random_model(shape, dtype=dtype, quantization_config=None, device=CPU)


def with_adapter(base, *, in_float32=True, **options):
    """An adapter that changes the answers: `init_lora_weights=False` draws both of its matrices."""
    options = {"target_modules": "all-linear", **options}
    config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", init_lora_weights=False, **options)
    torch.manual_seed(0)
    return attach_adapter(base, config, base_path="some/base", in_float32=in_float32)


def logits(model, batch):
    with torch.no_grad():
        return model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_saved_adapter_gives_the_same_logits(options, shape, batch, tmp_path):
    untouched = logits(base_of(shape), batch)
    model = with_adapter(base_of(shape), **options)
    expected = logits(model, batch)
    assert not torch.allclose(expected, untouched, atol=1e-3)
    save_adapter(model, tmp_path / "adapter")
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    loaded = load_adapter(base_of(shape), tmp_path / "adapter")
    assert torch.equal(logits(loaded, batch), expected)
    assert loaded.peft_config["default"].base_model_name_or_path == "some/base"
    assert not any(p.requires_grad for p in loaded.parameters())


def test_fresh_adapter_is_the_base_and_only_it_trains(shape, batch):
    expected = logits(base_of(shape), batch)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model = attach_adapter(base_of(shape), config, base_path="b", in_float32=True)
    assert torch.equal(logits(model, batch), expected)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 7 * 2  # two matrices for each of seven linear layers, in two layers
    assert all("lora_" in name for name in trained)


@pytest.mark.parametrize("in_float32", [True, False])
def test_type_of_the_adapter_over_a_16_bit_base(in_float32, shape):
    model = with_adapter(base_of(shape, dtype=torch.bfloat16), in_float32=in_float32)
    trained = {p.dtype for p in model.parameters() if p.requires_grad}
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert trained == {torch.float32 if in_float32 else torch.bfloat16}
    assert frozen == {torch.bfloat16}


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
@pytest.mark.parametrize(
    ("layers", "target_modules", "count"),
    [(1, "all-linear", 14), (1, ["q_proj"], 2), (3, ["q_proj"], 2)],
    ids=["fewer", "fewer, by suffix", "more, by suffix"],
)
def test_base_with_other_layers_is_refused(layers, target_modules, count, shape, tmp_path):
    save_adapter(with_adapter(base_of(shape), target_modules=target_modules), tmp_path / "adapter")
    with pytest.raises(FtframeError) as caught:
        load_adapter(base_of(shape, layers=layers), tmp_path / "adapter")
    message = str(caught.value)
    assert f"{tmp_path / 'adapter'} does not fit this base: {count} tensors stand on one side only" in message
    assert f"layers.{min(layers, 2)}." in message
    assert message.endswith("Give the base it was trained on: some/base.")


def test_base_of_another_width_is_refused(shape, tmp_path):
    save_adapter(with_adapter(base_of(shape)), tmp_path / "adapter")
    wider = LlamaConfig(**{**shape.to_dict(), "hidden_size": 128, "head_dim": 32})
    with pytest.raises(FtframeError, match=r"does not fit this base: .* shapes\..* trained on: some/base\.$"):
        load_adapter(base_of(wider), tmp_path / "adapter")


@pytest.mark.parametrize("exists", [True, False], ids=["empty folder", "no folder"])
def test_folder_without_an_adapter_is_refused(exists, shape, tmp_path):
    folder = tmp_path / "adapter"
    if exists:
        folder.mkdir()
    with pytest.raises(ConfigError) as caught:
        load_adapter(base_of(shape), folder)
    assert str(caught.value) == f"{folder} holds no adapter_model.safetensors, so it is not an adapter."


@pytest.mark.parametrize("kept", [0, 5, 200, -10])
def test_truncated_weights_are_refused_by_name(kept, shape, tmp_path):
    save_adapter(with_adapter(base_of(shape)), tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(FtframeError, match=r"adapter_model\.safetensors is damaged: "):
        load_adapter(base_of(shape), tmp_path)


QUANT = {"none": None, "4bit": {"load_in_4bit": True}, "8bit": {"load_in_8bit": True}}


@pytest.mark.parametrize("on_gpu", [True, False], ids=["GPU", "CPU"])
@pytest.mark.parametrize("quant", QUANT)
@pytest.mark.parametrize("use_dora", [True, False], ids=["dora", "lora"])
def test_check_adapter(use_dora, quant, on_gpu):
    quantization_config = BitsAndBytesConfig(**QUANT[quant]) if QUANT[quant] else None
    config = LoraConfig(r=4, target_modules="all-linear", use_dora=use_dora)
    if (use_dora, quant, on_gpu) == (True, "8bit", False):
        with pytest.raises(ConfigError, match=r"^peft=dora on an 8-bit base fails on a CPU: .* Use quant=4bit"):
            check_adapter(config, quantization_config, on_gpu=on_gpu)
    else:
        check_adapter(config, quantization_config, on_gpu=on_gpu)
