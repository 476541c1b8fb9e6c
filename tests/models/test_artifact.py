"""Artifacts that are what they say: saved whole, known by their digests, put on the base of their training."""

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig

from ftframe.errors import ConfigError, FtframeError
from ftframe.models.adapter import attach_adapter
from ftframe.models.artifact import (
    check_base,
    find_artifact,
    load_artifact,
    load_artifact_tokenizer,
    open_artifact,
    save_artifact,
    write_card,
)
from ftframe.models.base import BaseSpec, build_base_model, resolve_path
from ftframe.models.base_fingerprint import fingerprint_base
from ftframe.models.random_init import random_model
from ftframe.models.record import RECORD, Record, read_record, write_record
from ftframe.models.sealed_folder import digests

CPU = torch.device("cpu")
TINY = "pkg://ftframe.embedded/tiny"
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
SHAPE = {"model_type": "llama", "vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, **LAYERS}


def save_base(folder, *, seed=0, **changes):
    shape = LlamaConfig(**{**SHAPE, **changes})
    random_model(shape, dtype=torch.float32, quantization_config=None, device=CPU, seed=seed).save_pretrained(folder)
    return folder


def train(spec, **options):
    """A base with an adapter that changes the answers."""
    base = build_base_model(spec, dtype=torch.float32, quantization_config=None, device=CPU)
    config = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False, **options
    )
    torch.manual_seed(0)
    return attach_adapter(base, config, base_path=spec.path, in_float32=True).eval()


def record_of(spec, **changes):
    fingerprint = fingerprint_base(spec, dtype=torch.float32, device_type="cpu")
    record = Record("adapter", asdict(spec), "float32", None, {"name": "plain"}, [1], base_fingerprint=fingerprint)
    return replace(record, **changes)


def save(folder, spec, **options):
    tokenizer = AutoTokenizer.from_pretrained(resolve_path(TINY))
    save_artifact(train(spec, **options), tokenizer, record=record_of(spec), folder=folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base, and a run with an adapter over it; no test changes them."""
    root = tmp_path_factory.mktemp("made")
    save(root / "run" / "adapter", BaseSpec(str(save_base(root / "base"))))
    return root


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


def load(run, *, base=None, **options):
    folder, record = open_artifact(str(run))
    spec = record.base_spec(path=str(base) if base else None, trust_remote_code=False)
    return load_artifact(folder, record, base=spec, device=CPU, **options)


def logits(model):
    with torch.no_grad():
        return model(torch.arange(3, 20)[None]).logits


def test_saved_artifact_gives_the_same_logits(made):
    expected = logits(train(BaseSpec(str(made / "base"))))
    model = load(made / "run")
    assert torch.equal(logits(model), expected)
    with torch.no_grad(), model.disable_adapter():
        assert not torch.allclose(logits(model), expected, atol=1e-3)
    tokenizer = load_artifact_tokenizer(find_artifact(str(made / "run")))
    assert tokenizer("x").input_ids == AutoTokenizer.from_pretrained(resolve_path(TINY))("x").input_ids


def test_record_says_which_base_and_which_files(made):
    content = json.loads((made / "run" / "adapter" / RECORD).read_text())
    assert content["base_fingerprint"].startswith("weights:")
    assert "trust_remote_code" not in content["base"]
    names = {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert set(content["files"]) == names
    assert sorted(p.name for p in (made / "run").iterdir()) == ["adapter"]


def test_card_may_be_written_and_edited_afterwards(run):
    write_card(run / "adapter", read_record(run / "adapter"), results={"val/loss": 1.0}, data="people")
    assert "val/loss" in (run / "adapter" / "README.md").read_text()
    open_artifact(str(run))


def test_saving_that_fails_leaves_no_artifact(made, tmp_path):
    class Tokenizer:
        def save_pretrained(self, folder):
            assert (Path(folder) / "adapter_model.safetensors").is_file()
            raise OSError("No space left on device")

    spec = BaseSpec(str(made / "base"))
    with pytest.raises(OSError, match="No space left"):
        save_artifact(train(spec), Tokenizer(), record=record_of(spec), folder=tmp_path / "run" / "adapter")
    assert list((tmp_path / "run").iterdir()) == []
    with pytest.raises(ConfigError, match="the run did not finish"):
        find_artifact(str(tmp_path / "run"))


def test_artifact_of_an_earlier_attempt_is_replaced(made, run):
    (run / "adapter" / "left.safetensors").write_bytes(b"")
    save(run / "adapter", BaseSpec(str(made / "base")))
    open_artifact(str(run))
    assert sorted(p.name for p in run.iterdir()) == ["adapter"]


FILES = ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json", RECORD)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    """One bit, where in a JSON file a digit or letter becomes another."""
    content = bytearray(path.read_bytes())
    place = next(i for i in range(len(content) // 2, len(content)) if chr(content[i]).isalnum())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink], ids=["truncated", "bit flipped", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_damaged_file_is_refused_by_name(name, damage, run):
    damage(run / "adapter" / name)
    with pytest.raises(FtframeError) as caught:
        open_artifact(str(run))
    said = str(caught.value)
    assert name in said
    assert any(word in said for word in ("is damaged", "is not what was saved", "is missing", "holds no adapter/"))


@pytest.mark.parametrize("name", ["adapter_model.bin", "pytorch_model.bin", "training_args.bin", "x.pkl"])
def test_pickle_in_an_artifact_is_refused_by_name(name, run):
    (run / "adapter" / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=rf"{name} is a pickle"):
        open_artifact(str(run))


OTHER_BASES = {
    "weights": {"seed": 1},
    "fewer layers": {"num_hidden_layers": 1},
    "more layers": {"num_hidden_layers": 3},
}


@pytest.mark.parametrize("change", OTHER_BASES.values(), ids=OTHER_BASES)
def test_another_base_is_refused_before_it_loads(change, made, tmp_path, monkeypatch):
    monkeypatch.setattr("ftframe.models.artifact.build_base_model", None)
    with pytest.raises(ConfigError) as caught:
        load(made / "run", base=save_base(tmp_path / "other", **change))
    said = str(caught.value)
    assert f"The base model {tmp_path / 'other'} (weights " in said
    assert f"is not the one that this adapter was trained on: {made / 'base'} (weights " in said
    assert "base=<folder or hub id>" in said
    assert "allow_base_mismatch=true" in said


def test_another_base_of_the_same_shape_may_be_allowed(made, tmp_path):
    other = save_base(tmp_path / "other", seed=1)
    model = load(made / "run", base=other, allow_base_mismatch=True)
    assert not torch.allclose(logits(model), logits(load(made / "run")), atol=1e-3)


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
@pytest.mark.parametrize("layers", [1, 3], ids=["fewer", "more"])
def test_other_layers_are_refused_even_if_another_base_is_allowed(layers, made, tmp_path):
    other = save_base(tmp_path / "other", num_hidden_layers=layers)
    with pytest.raises(FtframeError, match="does not fit this base: 4 tensors stand on one side only"):
        load(made / "run", base=other, allow_base_mismatch=True)


def test_more_layers_are_refused_where_the_names_of_tensors_would_not_tell(made, tmp_path):
    """An adapter on given layers has the same names on any base that has those layers."""
    save(tmp_path / "run" / "adapter", BaseSpec(str(made / "base")), layers_to_transform=[0, 1])
    other = save_base(tmp_path / "other", num_hidden_layers=3)
    load(tmp_path / "run", base=other, allow_base_mismatch=True)
    with pytest.raises(ConfigError, match="is not the one that this adapter was trained on"):
        load(tmp_path / "run", base=other)


def test_base_that_has_moved_is_the_same(made, tmp_path):
    moved = shutil.copytree(made / "base", tmp_path / "moved")
    assert torch.equal(logits(load(made / "run", base=moved)), logits(load(made / "run")))


@pytest.mark.parametrize(
    "change", [{"dtype": "bfloat16"}, {"quant": {"load_in_4bit": True, "bnb_4bit_compute_dtype": "float32"}}]
)
def test_base_in_another_type_or_quantised_is_the_same(change, made):
    folder, record = open_artifact(str(made / "run"))
    record = replace(record, **change)
    spec = record.base_spec(path=None, trust_remote_code=False)
    assert check_base(record, spec, device_type="cpu", allow_mismatch=False) == ""
    assert logits(load_artifact(folder, record, base=spec, device=CPU)).isfinite().all()


def test_base_that_is_drawn_is_known_by_its_seed(tmp_path):
    spec = BaseSpec("none", init="random", config=SHAPE, seed=3)
    save(tmp_path / "run" / "adapter", spec)
    folder, record = open_artifact(str(tmp_path / "run"))
    assert torch.equal(logits(load_artifact(folder, record, base=spec, device=CPU)), logits(train(spec)))
    for change, device_type in (({"seed": 4}, "cpu"), ({}, "cuda")):
        with pytest.raises(ConfigError, match="are others on another kind of device"):
            check_base(record, replace(spec, **change), device_type=device_type, allow_mismatch=False)


def test_artifact_of_before_is_taken_with_a_warning(run):
    folder = run / "adapter"
    content = json.loads((folder / RECORD).read_text())
    for name in ("base_fingerprint", "files", "sha256"):
        content.pop(name)
    (folder / RECORD).write_text(json.dumps(content))
    _, record = open_artifact(str(run))
    spec = record.base_spec(path=None, trust_remote_code=False)
    warning = check_base(record, spec, device_type="cpu", allow_mismatch=False)
    assert warning.startswith("This adapter does not say which weights it was trained on")
    load(run)
    (folder / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"adapter_model\.bin is a pickle"):
        open_artifact(str(run))


def test_trusted_code_is_of_a_base_that_the_user_names(made):
    _, record = open_artifact(str(made / "run"))
    with pytest.raises(ConfigError, match=rf"trust_remote_code=true: .* say so: base={made / 'base'}$"):
        record.base_spec(path=None, trust_remote_code=True)
    assert record.base_spec(path="mine", trust_remote_code=True).trust_remote_code is True
    assert record.base_spec(path="mine", trust_remote_code=False).trust_remote_code is False


@pytest.mark.parametrize(
    ("name", "used"), [("eager", "eager"), ("varlen", "varlen"), ("evil/kernel", "sdpa"), ("evil/kernel:f", "sdpa")]
)
def test_kernels_of_a_hub_are_not_taken_from_an_artifact(name, used, made):
    record = record_of(BaseSpec(str(made / "base"), attn_implementation=name))
    assert record.base_spec(path=None, trust_remote_code=False).attn_implementation == used


WRONG = {
    "kind": ["adaptor", 3, None],
    "base": ["x", {}, {"path": 3}, {"path": "x", "init": "y"}, {"path": "x", "trust_remote_code": True}],
    "dtype": ["float8", "load", None],
    "quant": [{"_target_": "os.system"}, {"load_in_5bit": True}, {"bnb_4bit_compute_dtype": "load"}, [], "x"],
    "template": [{}, {"name": 3}, {"name": "plain", "_target_": "os.system"}, {"name": "plain", "a": {"_x_": 1}}],
    "stop_token_ids": [["a"], {"a": 1}, None],
    "max_new_tokens": ["3", 0, True],
    "tasks": [[], {"a": {}}, {"a": {"name": "x", "_target_": "y"}}],
    "files": [{"../x": "a"}, {"/x": "a"}, {"a/../../x": "a"}, {"x": 3}, []],
    "base_fingerprint": [3],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_record_of_anything_else_than_names_and_numbers_is_refused(name, value, made, tmp_path):
    record = record_of(BaseSpec(str(made / "base")))
    write_record(record, tmp_path)
    content = json.loads((tmp_path / RECORD).read_text())
    content.pop("sha256")
    (tmp_path / RECORD).write_text(json.dumps({**content, name: value}))
    with pytest.raises(ConfigError, match=rf"{RECORD} is damaged: {name}="):
        read_record(tmp_path)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


@given(st.sampled_from(Record.__slots__), JSON)
def test_record_is_read_or_refused(tmp_path_factory, name, value):
    folder = tmp_path_factory.mktemp("record")
    write_record(Record("adapter", {"path": "x"}, "float32", None, {"name": "plain"}), folder)
    content = json.loads((folder / RECORD).read_text())
    content.pop("sha256")
    (folder / RECORD).write_text(json.dumps({**content, name: value}))
    try:
        record = read_record(folder)
    except ConfigError as error:
        assert RECORD in str(error)
    else:
        record.base_spec(path=None, trust_remote_code=False)


def test_changed_record_is_refused(run):
    path = run / "adapter" / RECORD
    path.write_text(path.read_text().replace('"max_new_tokens": 128', '"max_new_tokens": 129'))
    with pytest.raises(ConfigError, match=r"ftframe\.json is damaged, or was changed: it is not what its own sha256"):
        open_artifact(str(run))


@pytest.fixture
def whole_model(tmp_path):
    """A run that trained every weight."""
    spec = BaseSpec(str(save_base(tmp_path / "base")))
    model = build_base_model(spec, dtype=torch.float32, quantization_config=None, device=CPU)
    tokenizer = AutoTokenizer.from_pretrained(resolve_path(TINY))
    save_artifact(model, tokenizer, record=record_of(spec, kind="model"), folder=tmp_path / "run" / "model")
    return tmp_path / "run", logits(model)


def test_whole_model_gives_the_same_logits_and_needs_no_base(whole_model):
    run, expected = whole_model
    shutil.rmtree(run.parent / "base")
    assert torch.equal(logits(load(run)), expected)


def test_pickle_in_place_of_a_models_weights_is_refused(whole_model):
    run, _ = whole_model
    (run / "model" / "model.safetensors").rename(run / "model" / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"pytorch_model\.bin is a pickle"):
        open_artifact(str(run))
    folder, record = run / "model", read_record(run / "model")
    spec = record.base_spec(path=None, trust_remote_code=False)
    with pytest.raises(ConfigError, match=r"pytorch_model\.bin and no safetensors\. It is a pickle"):
        load_artifact(folder, record, base=spec, device=CPU)


@pytest.mark.parametrize("change", ["missing", "more"])
def test_model_whose_tensors_are_not_those_of_its_config_is_refused(change, whole_model):
    """Every digest is right: it was made so."""
    folder = whole_model[0] / "model"
    tensors = load_file(folder / "model.safetensors")
    if change == "missing":
        del tensors["model.layers.1.mlp.up_proj.weight"]
    else:
        tensors["model.layers.2.mlp.up_proj.weight"] = torch.zeros(128, 64)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    record = read_record(folder)
    (folder / RECORD).unlink()
    write_record(replace(record, files=digests(folder)), folder)
    with pytest.raises(
        FtframeError, match=r"are not those of its config\.json: 1 tensors .* model\.layers\.[12]\.mlp\.up_proj"
    ):
        load(folder)
