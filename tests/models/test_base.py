"""Where a base model comes from, and which ones are refused."""

from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig

from ftframe.errors import ConfigError
from ftframe.models.base import (
    BaseSpec,
    build_base_model,
    check_vocabulary,
    load_config,
    load_tokenizer,
    resolve_path,
)
from ftframe.models.random_init import random_model

TINY = "pkg://ftframe.embedded/tiny"
SHAPE = {
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CPU = torch.device("cpu")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a model folder and a file in it."""
    (tmp_path / "llama").mkdir()
    (tmp_path / "org" / "model").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path.resolve()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("org/another", "org/another"),
        ("gpt2", "gpt2"),
        ("llama", "{here}/llama"),
        ("./llama", "{here}/llama"),
        ("~/llama", "{here}/llama"),
        ("org/model", "{here}/org/model"),
        ("org/../llama", "{here}/llama"),
    ],
    ids=["hub id", "hub id without a slash", "folder", "dot", "home", "folder like a hub id", "dots"],
)
def test_resolve_path(path, expected, here):
    assert resolve_path(path) == expected.format(here=here)
    absolute = str(here / "llama")
    assert resolve_path(absolute) == absolute


def test_resolve_path_inside_of_a_package():
    found = Path(resolve_path(TINY))
    assert found == Path(str(files("ftframe.embedded") / "tiny"))
    assert (found / "config.json").is_file()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("./lama", "model.path=./lama is not a folder. Did you mean 'llama'?"),
        ("~/lama", "model.path=~/lama is not a folder. Did you mean 'llama'?"),
        ("./zzz", "model.path=./zzz is not a folder."),
        ("/no/such/folder", "model.path=/no/such/folder is not a folder."),
        ("notes.txt", "model.path=notes.txt is not a folder. Did you mean 'notes.txt'?"),
        (
            "pkg://no_such_package/tiny",
            "model.path=pkg://no_such_package/tiny: no package 'no_such_package' is installed.",
        ),
        ("pkg://ftframe.embedded/tny", "model.path=pkg://ftframe.embedded/tny is not a folder. Did you mean 'tiny'?"),
        ("pkg://", "model.path=pkg://: no package '' is installed."),
    ],
    ids=["near", "near, home", "far", "no parent", "a file", "no package", "no folder in it", "nothing"],
)
def test_resolve_path_refuses(path, message, here):
    with pytest.raises(ConfigError) as caught:
        resolve_path(path)
    assert str(caught.value) == message


def test_resolve_path_of_a_package_that_cannot_be_imported(here, monkeypatch):
    (here / "broken" / "model").mkdir(parents=True)
    (here / "broken" / "__init__.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(str(here))
    assert resolve_path("pkg://broken/model") == str(here / "broken" / "model")


def test_resolve_path_names_the_key_it_is_told(here):
    with pytest.raises(ConfigError, match=r"^base=\./lama is not a folder"):
        resolve_path("./lama", key="base")


def test_shape_from_its_own_words():
    config = load_config(BaseSpec("none", init="random", config=SHAPE))
    assert isinstance(config, LlamaConfig)
    assert {k: getattr(config, k) for k in SHAPE} == SHAPE


@pytest.mark.parametrize(
    ("model_type", "head_dim"), [("llama", 16), ("mistral", 16), ("gemma", 256)], ids=["llama", "mistral", "gemma"]
)
def test_derived_values_follow_the_given_ones(model_type, head_dim):
    """Llama and Mistral derive the width of a head; Gemma's is a number of its own."""
    config = load_config(BaseSpec("none", init="random", config={**SHAPE, "model_type": model_type}))
    assert (config.model_type, config.head_dim) == (model_type, head_dim)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "lama"}, "Unknown model.config.model_type=lama. Did you mean 'llama'?"),
        ({"hidden_size": "abc"}, "model.config: Validation error for field 'hidden_size': "),
        ({"hidden_size": 65}, "model.config: Class validation error for validator 'validate_architecture': "),
        ({"num_hidden_layers": 0}, "model.config.num_hidden_layers=0: a number of at least 1 is needed."),
        ({"num_attention_heads": -4}, "model.config.num_attention_heads=-4: a number of at least 1 is needed."),
        ({"hidden_size": 0}, "model.config.hidden_size=0: a number of at least 1 is needed."),
        (
            {"num_attention_heads": 4, "num_key_value_heads": 3},
            "model.config.num_attention_heads=4 is no multiple of model.config.num_key_value_heads=3.",
        ),
    ],
    ids=["type", "value", "no multiple", "no layers", "negative", "no width", "uneven groups"],
)
def test_shape_that_cannot_be_is_refused(change, message):
    with pytest.raises(ConfigError) as caught:
        load_config(BaseSpec("none", init="random", config={**SHAPE, **change}))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["n_layer", "num_hidden_layers"])
def test_a_shape_without_layers_is_refused_in_a_models_own_words_too(name):
    with pytest.raises(ConfigError, match=rf"^model\.config\.{name}=0: a number of at least 1"):
        load_config(BaseSpec("none", init="random", config={"model_type": "gpt2", name: 0}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged: it is empty."),
        (b'{"model_type": ', "is damaged: Expecting value: line 1 column 16 (char 15)."),
        (b"\xff\xfe", "is damaged: "),
        (b"[]", "is damaged: it is no JSON object."),
        (b"3", "is damaged: it is no JSON object."),
        (b"{}", "describes no model: Unrecognized model in "),
        (b'{"model_type": "lama"}', "describes no model: The checkpoint you are trying to load has model type `lama` "),
        (
            b'{"model_type": "llama", "hidden_size": "x"}',
            "describes no model: Validation error for field 'hidden_size'",
        ),
        (
            b'{"model_type": "llama", "num_attention_heads": 0}',
            "describes no model: integer division or modulo by zero",
        ),
    ],
    ids=["empty", "cut off", "no text", "list", "number", "no type", "unknown type", "wrong value", "no heads"],
)
def test_a_damaged_config_of_a_folder_is_named_with_what_is_wrong(content, message, here):
    file = here / "llama" / "config.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(BaseSpec("./llama"))
    assert str(caught.value).startswith(f"{file} {message}")
    assert "\n" not in str(caught.value)


def test_shape_from_a_folder_with_changes():
    pretrained = load_config(BaseSpec(TINY))
    config = load_config(BaseSpec(TINY, init="random", config={"num_hidden_layers": 1}))
    assert config.num_hidden_layers == 1
    assert config.hidden_size == pretrained.hidden_size


@pytest.mark.parametrize("init", ["random", "pretrained"])
def test_unknown_key_of_a_shape_is_refused(init):
    path, config = ("none", {**SHAPE, "num_hiden_layers": 2}) if init == "random" else (TINY, {"num_hiden_layers": 2})
    with pytest.raises(ConfigError) as caught:
        load_config(BaseSpec(path, init=init, config=config))
    assert str(caught.value) == "Unknown key 'model.config.num_hiden_layers'. Did you mean 'num_hidden_layers'?"


def test_shape_that_differs_from_the_weights_is_refused():
    layers = load_config(BaseSpec(TINY)).num_hidden_layers
    assert load_config(BaseSpec(TINY, config={"num_hidden_layers": layers})).num_hidden_layers == layers
    with pytest.raises(ConfigError) as caught:
        load_config(BaseSpec(TINY, config={"num_hidden_layers": layers + 1}))
    assert str(caught.value).startswith(
        f"model.config.num_hidden_layers={layers + 1}, but the weights at model.path={TINY} have {layers}. "
    )


def test_folder_without_a_model_is_refused(here):
    with pytest.raises(ConfigError, match=r"^No model could be found at model\.path=.*llama\.\n"):
        load_config(BaseSpec("./llama"))


@pytest.mark.parametrize(
    ("tokenizer", "key"), [(None, r"model\.path"), ("./llama", r"model\.tokenizer")], ids=["path", "tokenizer"]
)
def test_folder_without_a_tokenizer_is_refused(tokenizer, key, here):
    with pytest.raises(ConfigError, match=rf"^No tokenizer could be loaded from {key}=.*llama\.\n"):
        load_tokenizer(BaseSpec("./llama", tokenizer=tokenizer))


def test_tokenizer_is_the_models_or_the_one_named():
    assert len(load_tokenizer(BaseSpec(TINY))) == len(load_tokenizer(BaseSpec("none", tokenizer=TINY))) > 100


@pytest.mark.parametrize(("tokens", "fits"), [(99, True), (100, True), (101, False)])
def test_check_vocabulary(tokens, fits):
    config, tokenizer = SimpleNamespace(vocab_size=100), [""] * tokens
    if fits:
        check_vocabulary(config, tokenizer)
        return
    with pytest.raises(ConfigError, match=r"^The tokenizer has 101 tokens and the model embeds 100\. "):
        check_vocabulary(config, tokenizer)


def test_embedded_tokenizer_fits_its_model():
    check_vocabulary(load_config(BaseSpec(TINY)), AutoTokenizer.from_pretrained(resolve_path(TINY)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folder_is_loaded_in_the_type_that_is_asked_for(shape, dtype, tmp_path):
    saved = random_model(shape, dtype=torch.float32, quantization_config=None, device=CPU)
    saved.save_pretrained(tmp_path)
    model = build_base_model(BaseSpec(str(tmp_path)), dtype=dtype, quantization_config=None, device=CPU)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model.config.use_cache is False
    pairs = list(zip(model.named_parameters(), saved.parameters(), strict=True))
    assert len(pairs) == 3 + 9 * shape.num_hidden_layers
    for (name, loaded), original in pairs:
        assert torch.equal(loaded, original.to(dtype)), name


def test_seed_draws_the_weights():
    def weights(seed):
        spec = BaseSpec("none", init="random", config=SHAPE, seed=seed)
        return build_base_model(spec, dtype=torch.float32, quantization_config=None, device=CPU).lm_head.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
