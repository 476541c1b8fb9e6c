"""What a run leaves behind for others to load: an adapter or a model, its tokenizer, and how it was made.

The folder is plain PEFT or transformers format; `ftframe.json` adds what those formats have no place for. Nothing that
is read from it is ever imported or called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from ftframe.errors import ConfigError, FtframeError
from ftframe.local_files import expanded
from ftframe.models.adapter import load_adapter, save_adapter
from ftframe.models.base import BaseSpec, build_base_model, load_config
from ftframe.models.base_fingerprint import fingerprint_base
from ftframe.models.precision import DTYPES
from ftframe.models.quantisation import build_quantisation
from ftframe.models.record import RECORD, Record, read_record, write_record
from ftframe.models.sealed_folder import digests, verify, whole_folder
from ftframe.models.tokenizer_files import read_tokenizer
from ftframe.models.weight_files import refuse_pickles, weight_files

CARD_USE = {
    "adapter": "Load it with `peft.PeftModel.from_pretrained(base, folder)`, or ask it by `ftframe predict`.",
    "model": "Load it with `transformers.AutoModelForCausalLM.from_pretrained`, or ask it by `ftframe predict`.",
}


def save_artifact(model: Any, tokenizer: Any, *, record: Record, folder: Path) -> None:
    """Write weights, tokenizer and record into a folder that appears when it is whole; one of before is replaced."""
    with whole_folder(folder) as partial:
        if record.kind == "adapter":
            save_adapter(model, partial)
        else:
            model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        write_record(replace(record, files=digests(partial)), partial)


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


def load_artifact(
    folder: Path, record: Record, *, base: BaseSpec, device: torch.device, allow_base_mismatch: bool = False
) -> Any:
    """The trained model, ready to answer: the base as it was in training, under its adapter.

    Args:
        folder: The artifact's folder.
        record: What stands in it.
        base: The base model to put an adapter on; a fully fine-tuned model has none.
        device: Where the weights go.
        allow_base_mismatch: Whether an adapter may be put on another base than it was trained on.

    Raises:
        ConfigError: If the base or the weights cannot be found, or it is another base.
        FtframeError: If the adapter does not fit the base, or tensors of the model are missing.
    """
    dtype = DTYPES[record.dtype]
    if record.kind == "model":
        return _load_model(folder, dtype=dtype, trust_remote_code=base.trust_remote_code, device=device)
    check_base(record, base, device_type=device.type, allow_mismatch=allow_base_mismatch)
    quantization_config = build_quantisation(record.quant)
    model = build_base_model(base, dtype=dtype, quantization_config=quantization_config, device=device)
    return load_adapter(model, folder).eval()


def _load_model(folder: Path, *, dtype: torch.dtype, trust_remote_code: bool, device: torch.device) -> Any:
    weight_files(str(folder), key="run")
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        config=load_config(BaseSpec(str(folder), trust_remote_code=trust_remote_code)),
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        use_safetensors=True,
        attn_implementation="sdpa",
        device_map={"": device},
        output_loading_info=True,
    )
    model, found = loaded
    odd = sorted({*found["missing_keys"], *found["unexpected_keys"]})
    if odd:
        raise FtframeError(
            f"The weights in {folder} are not those of its config.json: {len(odd)} tensors stand on one side only, "
            f"the first is {odd[0]}."
        )
    return model.eval()


def check_base(record: Record, base: BaseSpec, *, device_type: str, allow_mismatch: bool) -> str:
    """Hold the base model against the one that an adapter was trained on, before its weights load.

    Args:
        record: What stands beside the adapter.
        base: The base model that would be loaded.
        device_type: Kind of the device that weights would be drawn on, where they are.
        allow_mismatch: Whether another base is no error.

    Returns:
        What to warn of; empty if it is the same base, or a fully fine-tuned model, which has none.

    Raises:
        ConfigError: If it is another base.
    """
    if record.kind == "model":
        return ""
    found = fingerprint_base(base, dtype=DTYPES[record.dtype], device_type=device_type, key="base")
    if found == record.base_fingerprint:
        return ""
    if not record.base_fingerprint:
        return (
            f"This adapter does not say which weights it was trained on, so that {base.path} holds them is taken for "
            "granted."
        )
    difference = (
        f"The base model {base.path} ({_short(found)}) is not the one that this adapter was trained on: "
        f"{record.base['path']} ({_short(record.base_fingerprint)})"
    )
    if allow_mismatch:
        return f"{difference}. allow_base_mismatch=true lets it pass."
    drawn = " Weights that are drawn (model.init=random) are others on another kind of device." * (
        base.init == "random"
    )
    raise ConfigError(
        f"{difference}, and would give other answers without a word.{drawn} Say where the right one is by "
        "base=<folder or hub id>, or set allow_base_mismatch=true if you know that this one will do."
    )


def _short(fingerprint: str) -> str:
    kind, _, digest = fingerprint.partition(":")
    return f"{kind} {digest[:12]}"


def load_artifact_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer that was saved beside the weights.

    Raises:
        ConfigError: If it does not load, or brings code that is not trusted.
    """
    try:
        return read_tokenizer(str(folder), trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} holds no tokenizer that loads: {error}") from error


def open_artifact(run: str) -> tuple[Path, Record]:
    """The artifact's folder and record, from a run folder or that folder itself, once each file is as it was saved.

    Raises:
        ConfigError: If there is none, it holds a pickle, or its record is none that this version writes.
        FtframeError: If a file is missing, has changed or has come since.
    """
    folder = find_artifact(run)
    record = read_record(folder)
    if record.files:
        verify(folder, record.files, beside=RECORD)
    else:
        refuse_pickles(folder)
    return folder, record


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
