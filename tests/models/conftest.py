import pytest
import torch
from transformers import LlamaConfig


@pytest.fixture
def shape() -> LlamaConfig:
    """A Llama small enough to build in a blink, with grouped-query attention."""
    return LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Eight rows of uneven length with uneven numbers of supervised tokens."""
    generator = torch.Generator().manual_seed(0)
    lengths = [5, 24, 9, 17, 3, 12, 21, 7]
    input_ids = torch.randint(3, 128, (8, max(lengths)), generator=generator)
    labels, mask = input_ids.clone(), torch.ones_like(input_ids)
    for row, length in enumerate(lengths):
        mask[row, length:] = 0
        labels[row, length:] = -100
        labels[row, : max(1, length // 3)] = -100
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}
