"""Which weights are told apart, and which are taken for the same."""

import json
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from ftframe.errors import ConfigError
from ftframe.models.base import BaseSpec
from ftframe.models.base_fingerprint import SAMPLE, fingerprint_base, fingerprint_weights, stored_tensors
from ftframe.models.random_init import random_model

CPU = torch.device("cpu")


def saved(shape, folder, *, seed=0, layers=2, **options):
    shape = LlamaConfig(**{**shape.to_dict(), "num_hidden_layers": layers})
    model = random_model(shape, dtype=torch.float32, quantization_config=None, device=CPU, seed=seed)
    model.save_pretrained(folder, **options)
    return folder


def of(folder, **options):
    return fingerprint_base(BaseSpec(str(folder)), **{"dtype": torch.float32, "device_type": "cpu", **options})


def test_other_weights_of_the_same_shape_have_another(shape, tmp_path):
    first = of(saved(shape, tmp_path / "a"))
    assert first.startswith("weights:")
    assert len(first) == len("weights:") + 64
    assert of(saved(shape, tmp_path / "b")) == first
    assert of(saved(shape, tmp_path / "c", seed=1)) != first


@pytest.mark.parametrize("layers", [1, 3], ids=["fewer", "more"])
def test_other_layers_have_another(layers, shape, tmp_path):
    assert of(saved(shape, tmp_path / "a")) != of(saved(shape, tmp_path / "b", layers=layers))


def test_it_does_not_matter_how_weights_are_spread_or_loaded(shape, tmp_path):
    whole = saved(shape, tmp_path / "whole")
    spread = saved(shape, tmp_path / "spread", max_shard_size="100KB")
    assert len(list(spread.glob("*.safetensors"))) > 2
    assert of(spread) == of(whole) == of(whole, dtype=torch.bfloat16, device_type="cuda")


@pytest.mark.parametrize("change", ["name", "type", "shape", "first", "middle", "last"])
def test_each_tensor_counts(change, tmp_path):
    """A tensor of one dimension, long enough for three samples with gaps between."""
    tensors = {"a": torch.arange(4 * SAMPLE, dtype=torch.int16), "b": torch.zeros(3)}
    save_file(tensors, tmp_path / "one.safetensors")
    place = {"first": 0, "middle": 2 * SAMPLE, "last": -1}
    if change == "name":
        tensors["c"] = tensors.pop("a")
    elif change == "type":
        tensors["a"] = tensors["a"].view(torch.float16)
    elif change == "shape":
        tensors["a"] = tensors["a"].view(2, -1)
    else:
        tensors["a"][place[change]] += 1
    save_file(tensors, tmp_path / "other.safetensors")
    digests = {fingerprint_weights([tmp_path / f"{name}.safetensors"]) for name in ("one", "other")}
    assert len(digests) == 2


def test_what_it_cannot_see_is_between_the_samples(tmp_path):
    tensors = {"a": torch.zeros(4 * SAMPLE, dtype=torch.int16)}
    save_file(tensors, tmp_path / "one.safetensors")
    tensors["a"][SAMPLE] += 1
    save_file(tensors, tmp_path / "other.safetensors")
    assert fingerprint_weights([tmp_path / "one.safetensors"]) == fingerprint_weights([tmp_path / "other.safetensors"])


def test_tensors_are_those_that_the_library_reads(shape, tmp_path):
    file = saved(shape, tmp_path / "a") / "model.safetensors"
    expected = load_file(file)
    found = {tensor.name: tensor for tensor in stored_tensors(file)}
    assert found.keys() == expected.keys()
    content = file.read_bytes()
    for name, tensor in expected.items():
        assert found[name].shape == tuple(tensor.shape)
        assert content[found[name].start : found[name].end] == tensor.numpy().tobytes()


def test_ten_thousand_tensors_of_a_gigabyte_take_seconds_at_most(tmp_path):
    """Only samples are read: most of the file is a hole."""
    size, count = 100_000, 10_000
    header = {
        f"t{i}": {"dtype": "U8", "shape": [size], "data_offsets": [i * size, (i + 1) * size]} for i in range(count)
    }
    encoded = json.dumps(header).encode()
    file = tmp_path / "large.safetensors"
    with file.open("wb") as opened:
        opened.write(len(encoded).to_bytes(8, "little") + encoded)
        opened.truncate(8 + len(encoded) + size * count)
    started = time.perf_counter()
    fingerprint_weights([file])
    assert time.perf_counter() - started < 20


def random_spec(**changes):
    shape = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    options = {"config": shape, "seed": 0, **changes}
    return BaseSpec("none", init="random", **options)


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ({"seed": 1}, {}),
        ({"config": {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3}}, {}),
        ({}, {"dtype": torch.bfloat16}),
        ({}, {"device_type": "cuda"}),
    ],
    ids=["seed", "layers", "type", "device"],
)
def test_drawn_weights_are_told_by_all_that_they_depend_on(spec, options):
    usual = {"dtype": torch.float32, "device_type": "cpu"}
    first = fingerprint_base(random_spec(), **usual)
    assert first.startswith("random:")
    assert fingerprint_base(random_spec(), **usual) == first
    assert fingerprint_base(random_spec(attn_implementation="eager"), **usual) == first
    assert fingerprint_base(random_spec(**spec), **{**usual, **options}) != first


def damage(file, how):
    content = file.read_bytes()
    file.write_bytes(
        {
            "empty": b"",
            "cut in the header": content[:100],
            "cut in the weights": content[: len(content) - 10],
            "no header": b"\xff" * 8 + content[8:],
            "no json": content[:8] + b"!" + content[9:],
            "no safetensors": b"\x80\x05" + b"pickle" * 100,
        }[how]
    )


@pytest.mark.parametrize(
    "how",
    ["empty", "cut in the header", "cut in the weights", "no header", "no json", "no safetensors"],
)
def test_damaged_base_is_refused_by_name(how, shape, tmp_path):
    folder = saved(shape, tmp_path / "a")
    damage(folder / "model.safetensors", how)
    with pytest.raises(ConfigError, match=r"a/model\.safetensors is damaged, or is no safetensors file: "):
        of(folder)


def test_the_embedded_base_has_one():
    spec = BaseSpec("pkg://ftframe.embedded/tiny")
    assert fingerprint_base(spec, dtype=torch.float32, device_type="cpu").startswith("weights:")


def test_weights_in_another_type_on_disk_are_another_base(shape, tmp_path):
    folder = saved(shape, tmp_path / "a")
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(tmp_path / "b")
    assert of(tmp_path / "b") != of(folder)
