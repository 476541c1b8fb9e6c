"""How far into a row a model can tell tokens apart."""

from __future__ import annotations

from typing import Any

from ftframe.errors import ConfigError

_LEARNED_POSITIONS = ("biogpt", "gpt2", "gpt_bigcode", "gpt_neo", "openai-gpt", "opt")
"""Types of models that look each position up in a table, and have nothing behind its end."""


def beyond_positions(config: Any, length: int, *, packed: bool) -> str | None:
    """What to warn of where rows are longer than what a model was made for; None where they are not.

    Args:
        config: The model's, of transformers.
        length: `data.max_length`.
        packed: Whether a row holds several examples, whose positions each begin at 0.

    Raises:
        ConfigError: If the model looks positions up in a table that ends before.
    """
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(positions, int) or length <= positions:
        return None
    beyond = f"data.max_length={length} is more than the {positions} positions of the model (max_position_embeddings)"
    if config.model_type in _LEARNED_POSITIONS and not packed:
        raise ConfigError(
            f"{beyond}, which has no embedding for others. Set data.max_length={positions}, or "
            "model.config.max_position_embeddings with model.init=random."
        )
    return f"{beyond}; it was not made for examples that are longer"
