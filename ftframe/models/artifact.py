"""What a run leaves behind for others to load: an adapter or a model, its tokenizer, and how it was made.

The folder is plain PEFT or transformers format; `ftframe.json` adds what those formats have no place for. It holds
names and numbers only: nothing read from it is ever imported or called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from ftframe.errors import ConfigError
from ftframe.local_files import expanded
from ftframe.models.adapter import load_adapter, save_adapter
from ftframe.models.base import BaseSpec, build_base_model
from ftframe.models.precision import DTYPES

RECORD = "ftframe.json"
FORMAT = 1
CARD_USE = {
    "adapter": "Load it with `peft.PeftModel.from_pretrained(base, folder)`, or ask it by `ftframe predict`.",
    "model": "Load it with `transformers.AutoModelForCausalLM.from_pretrained`, or ask it by `ftframe predict`.",
}


@dataclass(frozen=True, slots=True)
class Record:
    """How to use an artifact.

    Attributes:
        kind: `adapter`, or `model` after full fine-tuning.
        base: Fields of `BaseSpec`.
        dtype: Type of the base's weights while it was trained.
        quant: Arguments of `BitsAndBytesConfig`, or None.
        template: Name and arguments of the prompt template.
        stop_token_ids: Tokens that end an answer.
        max_new_tokens: Longest answer that was asked for in the run.
        tasks: The prompt template of each task, where tasks have their own.
        template_sha256: Hash of the prompt template, its source included; empty where it was not recorded.
    """

    kind: str
    base: Mapping[str, Any]
    dtype: str
    quant: Mapping[str, Any] | None
    template: Mapping[str, Any]
    stop_token_ids: list[int] = field(default_factory=list)
    max_new_tokens: int = 128
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    template_sha256: str = ""

    def base_spec(self, *, path: str | None, trust_remote_code: bool) -> BaseSpec:
        """The base model to load; trust is never taken from a file."""
        changed = {"path": path or self.base["path"], "trust_remote_code": trust_remote_code}
        return BaseSpec(**{**self.base, **changed})


def save_artifact(model: Any, tokenizer: Any, *, record: Record, folder: Path) -> None:
    """Write weights, tokenizer and record into a new folder."""
    if record.kind == "adapter":
        save_adapter(model, folder)
    else:
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_record(record, folder)


def write_card(folder: Path, record: Record, *, results: Mapping[str, float], data: str) -> None:
    """A README.md that says what this is and how to load it, in place of PEFT's empty form.

    Args:
        folder: The artifact's folder.
        record: What stands in it.
        results: Metrics after training.
        data: The dataset it was trained on, by name.
    """
    base = record.base["path"]
    front = {"library_name": "peft" if record.kind == "adapter" else "transformers", "pipeline_tag": "text-generation"}
    if "://" not in base and not Path(base).is_absolute():
        front["base_model"] = base
    lines = ["---", *(f"{key}: {value}" for key, value in front.items()), "---", ""]
    lines += [f"# {record.kind.capitalize()} of {base}, trained on {data}", ""]
    lines += ["Trained with ftframe. " + CARD_USE[record.kind], "", "| metric | value |", "|---|--:|"]
    lines += [f"| {name} | {value:.4f} |" for name, value in results.items()]
    lines += ["", f"Prompt template: `{record.template['name']}`. Base in training: {record.dtype}, "]
    lines[-1] += "quantised as in `ftframe.json`." if record.quant else "not quantised."
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def load_artifact(folder: Path, record: Record, *, base: BaseSpec, device: torch.device) -> Any:
    """The trained model, ready to answer: the base as it was in training, under its adapter.

    Args:
        folder: The artifact's folder.
        record: What stands in it.
        base: The base model to put an adapter on; a fully fine-tuned model has none.
        device: Where the weights go.

    Raises:
        ConfigError: If the base or the weights cannot be found.
        FtframeError: If the adapter does not fit the base.
    """
    dtype = DTYPES[record.dtype]
    if record.kind == "model":
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=base.trust_remote_code, device_map={"": device}
        ).eval()
    quantization_config = BitsAndBytesConfig(**record.quant) if record.quant else None
    model = build_base_model(base, dtype=dtype, quantization_config=quantization_config, device=device)
    return load_adapter(model, folder).eval()


def load_artifact_tokenizer(folder: Path) -> Any:
    """The tokenizer that was saved beside the weights.

    Raises:
        ConfigError: If it does not load.
    """
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} holds no tokenizer that loads: {error}") from error


def write_record(record: Record, folder: Path) -> None:
    """Put the record beside the weights."""
    content = {"format": FORMAT, **asdict(record)}
    content["base"] = {k: v for k, v in content["base"].items() if k != "trust_remote_code"}
    (folder / RECORD).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_record(folder: Path) -> Record:
    """The record beside the weights.

    Raises:
        ConfigError: If there is none, or it is not one that this version writes.
    """
    path = folder / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("format")
        if version != FORMAT:
            raise ConfigError(f"{path} has format {version}; this version of ftframe reads format {FORMAT}.")
        return Record(**content)
    except OSError as error:
        raise ConfigError(f"{folder} holds no {RECORD}, so it was not written by ftframe.") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged: {error}") from error


def find_artifact(run: str) -> Path:
    """The artifact's folder, from a run folder or that folder itself.

    Raises:
        ConfigError: If there is neither.
    """
    root = expanded(run, key="run")
    for folder in (root, root / "adapter", root / "model"):
        if (folder / RECORD).is_file():
            return folder.resolve()
    if not root.is_dir():
        raise ConfigError(f"run={run} is not a folder. Give the run folder of a finished `ftframe fit`.")
    raise ConfigError(
        f"run={run} holds no adapter/{RECORD} and no model/{RECORD}: the run did not finish, or it is no run folder."
    )
