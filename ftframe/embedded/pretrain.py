"""Makes the embedded base: generates its corpus, trains its tokenizer, pretrains it and saves it.

    python -m ftframe.embedded.pretrain --output DIR

The same seed, thread count and library versions give the same weights on the same kind of processor.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ftframe.embedded.corpus import documents

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
CONTEXT = 512
BATCH_SIZE = 64
WIDTH = 128
LEARNING_RATE = 2e-3
WARM_UP = 50


def train_tokenizer(seed: int, size: int = 4000) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text comes back from it unchanged.

    Args:
        seed: Seed of the documents it is trained on.
        size: Number of those documents.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1536,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(islice(documents(seed), size), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained model. Its layers' sides are multiples of 64, the block size of 4-bit quantisation."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.02,
    )
    return LlamaForCausalLM(config)


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[Tensor]:
    """Rows of token ids cut from one line of documents, without end."""
    source = documents(seed)
    line: list[int] = []
    size = BATCH_SIZE * WIDTH
    while True:
        while len(line) < size:
            line += tokenizer.encode(f"{BOS}{next(source)}{EOS}", add_special_tokens=False)
        yield torch.tensor(line[:size]).view(BATCH_SIZE, WIDTH)
        line = line[size:]


def pretrain(model: LlamaForCausalLM, source: Iterator[Tensor], steps: int) -> None:
    """Trains the model in place and prints its loss as it goes."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    gains = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), fused=True)
    schedule = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARM_UP, 2 * (1 - step / steps)))
    model.train()
    start = time.perf_counter()
    for step, inputs in enumerate(islice(source, steps), start=1):
        loss = model(input_ids=inputs.to(model.device), labels=inputs.to(model.device)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0 or step == steps:
            print(f"step {step}/{steps}  loss {loss.item():.3f}  {time.perf_counter() - start:.0f} s", flush=True)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Writes the folder that `AutoModelForCausalLM` and `AutoTokenizer` read, the weights in bfloat16."""
    config = model.config
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    model.cpu().bfloat16().save_pretrained(output)
    tokenizer.save_pretrained(output)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the whole recipe from the command line."""
    parser = argparse.ArgumentParser(description="Pretrain the embedded base model from nothing.")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=1500, help="optimiser steps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to train")
    parser.add_argument("--seed", type=int, default=0, help="seed of the text and of the weights")
    options = parser.parse_args(arguments)
    tokenizer = train_tokenizer(options.seed)
    model = new_model(tokenizer, options.seed).to(options.device)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens in the vocabulary", flush=True)
    pretrain(model, batches(tokenizer, options.seed), options.steps)
    save(model, tokenizer, options.output)


if __name__ == "__main__":
    main()
