"""Packed batches for tests, written without the code under test."""

from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F  # noqa: N812
from transformers import AutoConfig, AutoModelForCausalLM

from ftframe.models.varlen_attention import model_inputs

SHAPE = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": False,
}
WINDOW = {"sliding_window": 4}  # shorter than the examples, so that it binds
ROWS = [[9, 2, 14], [7, 1, 6]]  # lengths of the examples of each row; the second row is padded


def build(model_type, attention, **changes):
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**SHAPE, **changes})
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


@dataclass
class Pack:
    """A packed batch and the examples in it, each with its row and where it begins there."""

    batch: dict
    examples: list

    def inputs(self, attention):
        return model_inputs(self.batch, attention)

    def spans(self, values):
        """The part of a [rows, length, ...] tensor that belongs to each example."""
        return [values[row, start : start + len(ids)] for row, start, ids in self.examples]


def make_examples(rows=ROWS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randint(3, 128, (length,), generator=generator) for length in row] for row in rows]


def make_pack(rows, *, varlen):
    """Padding at the end of a row is a sequence of its own."""
    width = max(sum(map(len, row)) for row in rows)
    sequences = [
        row + ([torch.zeros(pad, dtype=torch.long)] if (pad := width - sum(map(len, row))) else []) for row in rows
    ]
    labels = [[first_hidden(ids) for ids in row] for row in rows]
    batch = {
        "input_ids": torch.stack([torch.cat(row) for row in sequences]),
        "position_ids": torch.stack([torch.cat([torch.arange(len(ids)) for ids in row]) for row in sequences]),
        "labels": torch.stack([F.pad(torch.cat(row), (0, width - sum(map(len, row))), value=-100) for row in labels]),
    }
    if varlen:
        lengths = [len(ids) for row in sequences for ids in row]
        starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        batch |= {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts}
        batch |= {"max_length_q": max(lengths), "max_length_k": max(lengths)}
    starts_in_row = [[0, *accumulate(map(len, row))] for row in rows]
    examples = [(r, starts_in_row[r][i], ids) for r, row in enumerate(rows) for i, ids in enumerate(row)]
    return Pack(batch, examples)


def first_hidden(ids):
    return torch.cat([torch.tensor([-100]), ids[1:]])


def token_losses(logits, labels):
    """Cross-entropy of each token, [rows, length], 0 where it is not learnt; a token's loss stands at the token."""
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none", ignore_index=-100)
    return F.pad(losses, (1, 0))
