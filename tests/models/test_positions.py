"""Rows that are longer than what a model was made for."""

import pytest
from transformers import AutoConfig

from ftframe.errors import ConfigError
from ftframe.models.positions import beyond_positions


def config_of(model_type, positions=64, **shape):
    return AutoConfig.for_model(model_type, max_position_embeddings=positions, **shape)


@pytest.mark.parametrize(
    ("config", "length"),
    [(config_of("llama"), 64), (config_of("gpt2"), 64), (AutoConfig.for_model("bloom"), 10**6)],
    ids=["rotary", "table", "no limit"],
)
def test_rows_within_its_positions_are_not_warned_of(config, length):
    assert beyond_positions(config, length, packed=False) is None


@pytest.mark.parametrize(
    ("model_type", "packed"), [("llama", False), ("llama", True), ("gpt2", True)], ids=["rotary", "packed", "table"]
)
def test_longer_rows_are_warned_of(model_type, packed):
    warning = beyond_positions(config_of(model_type), 65, packed=packed)
    assert warning.startswith("data.max_length=65 is more than the 64 positions of the model")


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "gpt_neo", "gpt_bigcode", "openai-gpt", "biogpt"])
def test_longer_rows_are_refused_where_a_table_ends(model_type):
    with pytest.raises(ConfigError, match=r"^data\.max_length=65 .* Set data\.max_length=64, or model\.config\."):
        beyond_positions(config_of(model_type), 65, packed=False)
