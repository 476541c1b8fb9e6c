"""Tokenizers without code of theirs; the attacks are in tests/test_security.py."""

import json
import shutil

import pytest

from ftframe.errors import ConfigError
from ftframe.models.base import resolve_path
from ftframe.models.tokenizer_files import read_tokenizer

TINY = "pkg://ftframe.embedded/tiny"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(resolve_path(TINY), tmp_path / "tokenizer")


def change(folder, **changes):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_tokenizer_with_plain_names_is_read(folder):
    usual = read_tokenizer(str(folder), trust_remote_code=False)
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    change(folder, tokenizer_file="tokenizer.json", vocab_file=None, chat_template=named)
    tokenizer = read_tokenizer(str(folder), trust_remote_code=False)
    assert tokenizer("a b").input_ids == usual("a b").input_ids
    assert tokenizer.chat_template == {"default": "a", "tool_use": "b"}
    tokenizer.save_pretrained(folder / "again")
    assert (folder / "again" / "additional_chat_templates" / "tool_use.jinja").read_text() == "b"


@pytest.mark.parametrize("content", ["[]", "3", '"x"'])
def test_config_that_is_no_object_is_refused(content, folder):
    (folder / "tokenizer_config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json is damaged: it is no JSON object"):
        read_tokenizer(str(folder), trust_remote_code=False)


@pytest.mark.parametrize("content", ["", "{", "\x00"])
def test_config_that_is_no_json_is_for_the_caller_to_name(content, folder):
    (folder / "tokenizer_config.json").write_text(content)
    with pytest.raises(ValueError):
        read_tokenizer(str(folder), trust_remote_code=False)
