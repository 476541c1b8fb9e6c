"""Which weights an adapter was trained on, told in milliseconds.

Of each tensor the name, type, shape and three samples of its bytes are hashed, in the order of the names. So a base of
the same shape with other weights has another fingerprint, and so has one with more layers or with fewer; how the
weights are spread over files does not matter, and neither does the type or quantisation that they are loaded in.

What it cannot see: a change of some weights of a large tensor that leaves all three samples as they are; the model's
`config.json`, such as another base of the rotary embedding; the tokenizer; code of the model's own. And it takes for
another base what only looks like one: the same weights saved in another type, or under other names. For those there is
`allow_base_mismatch=true`. It tells bases apart, and does not protect from somebody who makes one to look like another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ftframe.errors import ConfigError
from ftframe.models.base import BaseSpec, load_config, resolve_path
from ftframe.models.weight_files import weight_files

SAMPLE = 4096
"""Bytes that are read at the beginning, in the middle and at the end of each tensor."""

LARGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""

_NOT_THE_SHAPE = ("transformers_version", "architectures", "dtype", "use_cache", "_name_or_path")


class StoredTensor(NamedTuple):
    """Where a tensor lies in a file: `start` and `end` in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int


def fingerprint_base(spec: BaseSpec, *, dtype: torch.dtype, device_type: str, key: str = "model.path") -> str:
    """`weights:` or `random:`, and 64 hexadecimal digits.

    Weights that are drawn depend on the shape, the seed, their type and the kind of device, and these are hashed; that
    the release of torch draws the same is taken for granted.

    Args:
        spec: The base model.
        dtype: Type that weights are drawn in; of no concern where they are loaded.
        device_type: Kind of the device that weights are drawn on; likewise.
        key: The config's key that names the model, for messages.

    Raises:
        ConfigError: If the weights are not found, are pickles, or a file is damaged.
    """
    if spec.init == "random":
        shape = {k: v for k, v in load_config(spec).to_dict().items() if k not in _NOT_THE_SHAPE}
        drawn = {"shape": shape, "seed": spec.seed, "dtype": str(dtype), "device": device_type}
        return f"random:{hashlib.sha256(json.dumps(drawn, sort_keys=True, default=str).encode()).hexdigest()}"
    path = resolve_path(spec.path, key=key)
    return f"weights:{fingerprint_weights(weight_files(path, revision=spec.revision, key=key))}"


def fingerprint_weights(files: Iterable[Path]) -> str:
    """The hash of the tensors in some safetensors files, as 64 hexadecimal digits.

    Raises:
        ConfigError: If a file is damaged.
    """
    digest = hashlib.sha256()
    for tensor in sorted(tensor for file in files for tensor in stored_tensors(file)):
        digest.update(json.dumps([tensor.name, tensor.dtype, tensor.shape]).encode())
        with tensor.file.open("rb") as file:
            for offset in _sample_offsets(tensor.end - tensor.start):
                file.seek(tensor.start + offset)
                digest.update(file.read(min(SAMPLE, tensor.end - tensor.start - offset)))
    return digest.hexdigest()


def stored_tensors(file: Path) -> Iterator[StoredTensor]:
    """The tensors that a safetensors file says it holds.

    Source: https://github.com/huggingface/safetensors#format

    Raises:
        ConfigError: If the file is damaged: its header is none, or tells of more bytes than there are.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 0 < length <= min(size - 8, LARGEST_HEADER):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header: Mapping[str, Any] = json.loads(opened.read(length))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            start, end = (8 + length + int(offset) for offset in entry["data_offsets"])
            if not 8 + length <= start <= end <= size:
                raise ValueError(f"{name} would end at byte {end} of {size}")
            yield StoredTensor(name, str(entry["dtype"]), tuple(map(int, entry["shape"])), file, start, end)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file} is damaged, or is no safetensors file: {error}. Get it again.") from error


def _sample_offsets(size: int) -> list[int]:
    return sorted({0, max(0, size // 2 - SAMPLE // 2), max(0, size - SAMPLE)})
