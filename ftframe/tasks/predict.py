"""`ftframe predict`: answer prompts with a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812 (the library's own abbreviation)
from omegaconf import OmegaConf

from ftframe import assembly, choices, console, finished_run, nodes, runs, templates
from ftframe.api import BadRow, Conversation, Message
from ftframe.data.datasets import read_inputs
from ftframe.data.supervision import prompt_ids
from ftframe.errors import ConfigError, DataError
from ftframe.metrics.generation import Sampling
from ftframe.models.artifact import load_artifact, load_artifact_tokenizer, open_artifact
from ftframe.models.record import Record


def predict(cfg: Any) -> Path:
    """Answer `prompt`, or each row of `input`, and return the folder with `predictions.jsonl`.

    Raises:
        ConfigError: If `run` is no finished run, its base model is another than in training, or not exactly one of
            `prompt` and `input` is given.
        DataError: If a row of `input` cannot be read.
    """
    artifact, record = open_artifact(cfg.run)
    conversations = read_conversations(cfg)
    base = finished_run.base_of(cfg, record, accelerator=cfg.accelerator)
    tokenizer = load_artifact_tokenizer(artifact, trust_remote_code=cfg.trust_remote_code and record.kind == "model")
    template = templates.artifact_template(record, cfg.template, tokenizer, task=choose_task(record, cfg.task))
    prompts = [prompt_ids(turns, template=template, tokenizer=tokenizer) for turns in conversations]

    with runs.new_run_folder(cfg.output_dir) as folder:
        console.write_logs_to(folder / "log.txt")
        runs.write_config(folder, cfg)
        device = choices.device_of(cfg.accelerator)
        model = load_artifact(artifact, record, base=base, device=device, allow_base_mismatch=cfg.allow_base_mismatch)
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


def choose_task(record: Record, task: str | None) -> str | None:
    """The task whose prompt template is used; None where all tasks share one.

    Raises:
        ConfigError: If the tasks have templates of their own and none, or another, is named.
    """
    if task in record.tasks or not (record.tasks or task):
        return task
    if not record.tasks:
        raise ConfigError(f"task={task}: the tasks of this run share one prompt template. Leave task out.")
    given = "none is named" if task is None else f"task={task} is none of them"
    raise ConfigError(
        f"The tasks of this run have prompt templates of their own, and {given}. Set task={'|'.join(record.tasks)}."
    )


def read_conversations(cfg: Any) -> list[Conversation]:
    """What is to be answered: each conversation without the assistant's last turn.

    Raises:
        ConfigError: If not exactly one of `prompt` and `input` is given, or there is no such file.
        DataError: If a row of `input` is no conversation.
    """
    typed: Any = OmegaConf.to_container(cfg)  # as it stands: reading cfg.prompt would take a `${` in it for a reference
    prompt, system = typed["prompt"], typed["system"]
    if (prompt is None) == (cfg.input is None):
        raise ConfigError('Give either prompt="..." or input=FILE.jsonl, one of the two.')
    if prompt is not None:
        return [[*([Message("system", system)] if system else []), Message("user", prompt)]]
    conversations = []
    for row in read_inputs(cfg.input, key="input", columns=nodes.plain(cfg.columns)):
        if isinstance(row, BadRow):
            raise DataError(str(row))
        conversations.append(row.messages[:-1] if row.messages[-1].role == "assistant" else row.messages)
    return conversations
