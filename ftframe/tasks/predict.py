"""`ftframe predict`: answer prompts with a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812 (the library's own abbreviation)
import torch
from omegaconf import OmegaConf

from ftframe import assembly, console, runs
from ftframe.api import Conversation, Message
from ftframe.data.datasets import jsonl
from ftframe.data.supervision import prompt_ids
from ftframe.errors import ConfigError
from ftframe.metrics.generation import Sampling
from ftframe.models.artifact import find_artifact, load_artifact, load_artifact_tokenizer, read_record


def predict(cfg: Any) -> Path:
    """Answer `prompt`, or each row of `input`, and return the folder with `predictions.jsonl`.

    Raises:
        ConfigError: If `run` is no finished run, or not exactly one of `prompt` and `input` is given.
        DataError: If a row of `input` cannot be read.
    """
    artifact = find_artifact(cfg.run)
    record = read_record(artifact)
    conversations = read_conversations(cfg)
    tokenizer = load_artifact_tokenizer(artifact)
    template = assembly.artifact_template(record.template, cfg.template, tokenizer)
    prompts = [prompt_ids(turns, template=template, tokenizer=tokenizer) for turns in conversations]

    folder = runs.create_run_folder(cfg.output_dir)
    console.write_logs_to(folder / "log.txt")
    runs.write_config(folder, cfg)
    device = torch.device("cuda" if assembly.on_gpu(cfg.accelerator) else "cpu")
    base = record.base_spec(path=cfg.base, trust_remote_code=cfg.trust_remote_code)
    model = load_artifact(artifact, record, base=base, device=device)
    sampling = Sampling(
        record.stop_token_ids,
        assembly.pad_token_id(tokenizer),
        cfg.max_new_tokens or record.max_new_tokens,
        temperature=cfg.temperature,
        top_p=cfg.top_p,
    )
    L.seed_everything(cfg.seed, verbose=False)
    generate = assembly.answerer(tokenizer, sampling, batch_size=cfg.batch_size)
    answers = {answer.position: answer.text for answer in generate(model, prompts)}
    predictions = folder / "predictions.jsonl"
    runs.write_samples(predictions, conversations, answers={"answer": answers})
    for index, turns in enumerate(conversations[:20]):
        console.print_turn(next(t.content for t in reversed(turns) if t.role == "user"), answers[index])
    console.print_facts([("answers", len(answers)), ("predictions", runs.shown(predictions))], title="Done")
    return folder


def read_conversations(cfg: Any) -> list[Conversation]:
    """What is to be answered: each conversation without the assistant's last turn.

    Raises:
        ConfigError: If not exactly one of `prompt` and `input` is given.
    """
    typed: Any = OmegaConf.to_container(cfg)  # as it stands: reading cfg.prompt would take a `${` in it for a reference
    prompt, system = typed["prompt"], typed["system"]
    if (prompt is None) == (cfg.input is None):
        raise ConfigError('Give either prompt="..." or input=FILE.jsonl, one of the two.')
    if prompt is not None:
        return [[*([Message("system", system)] if system else []), Message("user", prompt)]]
    rows = jsonl(path=cfg.input, columns=assembly.plain(cfg.columns) or None)["train"]
    return [turns[:-1] if turns[-1].role == "assistant" else turns for turns in rows]
