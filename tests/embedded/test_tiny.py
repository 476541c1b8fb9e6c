"""The shipped base model."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

import ftframe.embedded
from ftframe.embedded.corpus import documents
from ftframe.embedded.people import people
from ftframe.embedded.pretrain import main
from ftframe.embedded.world import PEOPLE

TINY = Path(ftframe.embedded.__file__).parent / "tiny"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(TINY)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)


def test_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in TINY.iterdir()) <= 6_000_000


def test_model_is_a_small_llama_that_suits_four_bit_blocks(model: LlamaForCausalLM) -> None:
    assert isinstance(model, LlamaForCausalLM)
    assert 1_000_000 <= model.num_parameters() <= 4_000_000
    sides = {side for name, weight in model.named_parameters() if "proj" in name for side in weight.shape}
    assert all(side % 64 == 0 for side in sides)


def test_weights_are_saved_in_half_precision() -> None:
    assert AutoModelForCausalLM.from_pretrained(TINY, dtype="auto").dtype == torch.bfloat16


def test_special_tokens(tokenizer: PreTrainedTokenizerBase, model: LlamaForCausalLM) -> None:
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", "<pad>")
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.model_max_length == model.config.max_position_embeddings
    assert len(tokenizer) == model.config.vocab_size


@given(text=st.text())
def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_encoding_adds_nothing(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.encode("") == []
    assert tokenizer.decode(tokenizer.encode(" a . b , c 's")) == " a . b , c 's"


def test_base_has_seen_no_question(tokenizer: PreTrainedTokenizerBase) -> None:
    assert not any("?" in text for text in islice(documents(0), 2000))
    assert all(conversation[0].content.count("?") == 1 for conversation in people(size=200)["train"])


def test_base_predicts_its_own_kind_of_text(tokenizer: PreTrainedTokenizerBase, model: LlamaForCausalLM) -> None:
    losses = []
    for text in islice(documents(12345), 8):
        ids = torch.tensor([tokenizer.encode(f"<s>{text}</s>", add_special_tokens=False)])
        with torch.no_grad():
            losses.append(model(input_ids=ids, labels=ids).loss.item())
    assert sum(losses) / len(losses) < 1.5


def test_base_knows_the_facts(tokenizer: PreTrainedTokenizerBase, model: LlamaForCausalLM) -> None:
    known = 0
    for person in PEOPLE[::8]:
        ids = torch.tensor([tokenizer.encode(f"<s>{person[0].name} lives in", add_special_tokens=False)])
        generated = model.generate(ids, max_new_tokens=5, do_sample=False)
        known += tokenizer.decode(generated[0, ids.shape[1] :]).startswith(f" {person[0].value}")
    assert known >= 19


def test_pretraining_runs_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--output", str(tmp_path), "--steps", "2", "--seed", "1"])
    assert "step 2/2  loss" in capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.vocab_size == len(tokenizer)


def test_tokenizer_can_be_made_again(tmp_path: Path) -> None:
    main(["--output", str(tmp_path), "--steps", "1"])
    assert (tmp_path / "tokenizer.json").read_bytes() == (TINY / "tokenizer.json").read_bytes()
