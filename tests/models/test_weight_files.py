"""Which files are read as weights, and which never are."""

import json

import pytest
from transformers.utils.hub import cached_file

from ftframe.errors import ConfigError
from ftframe.models import weight_files as module
from ftframe.models.weight_files import PICKLES, is_plain_name, refuse_pickles, weight_files

INDEX = "model.safetensors.index.json"


def fill(folder, *names, index=None):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    if index is not None:
        (folder / INDEX).write_text(index if isinstance(index, str) else json.dumps({"weight_map": index}))
    return folder


def found(folder):
    return [path.relative_to(folder).as_posix() for path in weight_files(str(folder))]


def test_one_file_or_those_of_the_index(tmp_path):
    index = {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"}
    assert found(fill(tmp_path, "a.safetensors", "b.safetensors", index=index)) == ["a.safetensors", "b.safetensors"]
    assert found(fill(tmp_path, "model.safetensors", "pytorch_model.bin")) == ["model.safetensors"]


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/a.safetensors", "sub/a.safetensors", "a.bin", "..", "", 5])
def test_index_that_names_another_place_is_refused(name, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"index\.json (names .*: only safetensors files beside it|is damaged)"):
        weight_files(str(fill(tmp_path / "model", "a.bin", index={"x": name})))


@pytest.mark.parametrize("index", ["{", "[]", '{"weight_map": 3}', "{}"], ids=["no json", "list", "number", "no map"])
def test_damaged_index_is_refused(index, tmp_path):
    with pytest.raises(ConfigError, match=rf"{INDEX} is damaged"):
        weight_files(str(fill(tmp_path, index=index)))


def test_missing_shard_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"lacks b\.safetensors, which its model\.safetensors\.index\.json names"):
        weight_files(str(fill(tmp_path, "a.safetensors", index={"x": "a.safetensors", "y": "b.safetensors"})))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_only_pickles_are_refused_with_the_way_out(name, tmp_path):
    with pytest.raises(ConfigError) as caught:
        weight_files(str(fill(tmp_path, name)), key="base")
    assert str(caught.value).startswith(f"base={tmp_path} holds {name} and no safetensors. It is a pickle")
    assert "save_pretrained('NEW_FOLDER')" in str(caught.value)


def test_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^model\.path=.* holds no model\.safetensors and no model\.saf"):
        weight_files(str(tmp_path))


def test_adapter_in_a_base_is_refused(tmp_path):
    """Transformers would load it, and the model that it names, without a word."""
    with pytest.raises(ConfigError, match=r"holds an adapter_config\.json: it is an adapter, or has one inside"):
        weight_files(str(fill(tmp_path, "model.safetensors", "adapter_config.json")))


def test_repository_of_a_hub_is_looked_up_in_the_cache(tmp_path, monkeypatch):
    asked = []

    def lookup(path, name, **options):
        asked.append((path, name, options["revision"]))
        return str(tmp_path / name) if name == "model.safetensors" else None

    monkeypatch.setattr(module, "cached_file", lookup)
    assert weight_files("org/model", revision="r1") == [tmp_path / "model.safetensors"]
    assert asked == [("org/model", "adapter_config.json", "r1"), ("org/model", "model.safetensors", "r1")]


def test_the_library_takes_the_options_that_it_is_asked_with(tmp_path):
    (tmp_path / "there").write_bytes(b"")
    assert cached_file(str(tmp_path), "there", revision=None) == str(tmp_path / "there")
    assert cached_file(str(tmp_path), "not", _raise_exceptions_for_missing_entries=False) is None


@pytest.mark.parametrize("suffix", PICKLES)
def test_every_pickle_is_refused_by_name(suffix, tmp_path):
    fill(tmp_path, "model.safetensors", "README.md")
    refuse_pickles(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / f"X{suffix.upper()}").write_bytes(b"")
    with pytest.raises(ConfigError, match=rf"deep/X{suffix.upper()} is a pickle"):
        refuse_pickles(tmp_path)


@pytest.mark.parametrize(
    ("name", "plain"),
    [("a.jinja", True), ("..a", True), ("..", False), ("a/b", False), ("a\\b", False), ("c:a", False), ("\0", False)],
)
def test_is_plain_name(name, plain):
    assert is_plain_name(name) is plain
