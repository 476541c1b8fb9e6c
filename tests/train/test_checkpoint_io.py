"""A checkpoint is written whole or not at all, and nothing in one is executed."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ftframe.errors import ConfigError, FtframeError
from ftframe.train.checkpoint_io import WholeCheckpointIO, read_checkpoint, refuse_damaged

GOOD: dict[str, Any] = {
    "state_dict": {"w": torch.arange(4.0)},
    "loops": {},
    "optimizer_states": [],
    "lr_schedulers": [],
}


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "step-00000001.ckpt"
    WholeCheckpointIO().save_checkpoint(GOOD, path)
    assert torch.equal(WholeCheckpointIO().load_checkpoint(path)["state_dict"]["w"], torch.arange(4.0))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


WHERE = {
    "beside the weights": lambda bad: {**GOOD, "extra": bad},
    "in the hyperparameters": lambda bad: {**GOOD, "hyper_parameters": bad},
    "as a state": lambda bad: {**GOOD, "optimizer_states": [bad]},
}


@pytest.mark.parametrize("place", WHERE.values(), ids=WHERE)
@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))],
                         ids=["torch", "pickle"])  # fmt: skip
def test_a_pickle_is_not_executed(write, place, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "evil.ckpt"
    write(place(Payload(canary)), path)
    for mmap in (True, False):
        with pytest.raises(ConfigError, match="is no checkpoint that can be loaded safely"):
            read_checkpoint(path, mmap=mmap)
    assert not canary.exists()
    pickle_of_torch = torch.load(path, weights_only=False) if write is torch.save else pickle.loads(path.read_bytes())
    assert pickle_of_torch and canary.exists()  # so the payload was a real one


def test_a_target_in_hyperparameters_is_text(tmp_path: Path) -> None:
    path = tmp_path / "step.ckpt"
    torch.save({**GOOD, "hyper_parameters": {"_target_": "os.system", "command": f"touch {tmp_path}/canary"}}, path)
    assert read_checkpoint(path)["hyper_parameters"]["_target_"] == "os.system"
    assert not (tmp_path / "canary").exists()


BROKEN = {
    "empty": b"",
    "text": b"not a checkpoint",
    "zip": b"PK\x03\x04" + bytes(100),
    "other zip": b"PK\x05\x06" + bytes(18),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_by_its_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.ckpt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.ckpt is no checkpoint that can be loaded safely"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], torch.ones(1)], ids=["weights", "list", "tensor"])
def test_a_file_of_something_else_is_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(ConfigError, match="is no checkpoint of a training run: it has no "):
        read_checkpoint(path)


FULL_DISK = """
import resource, sys, torch
from ftframe.train.checkpoint_io import WholeCheckpointIO
io, path = WholeCheckpointIO(), sys.argv[1] + "/checkpoints/step-00000001.ckpt"
io.save_checkpoint({"w": torch.zeros(10)}, path)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
io.save_checkpoint({"w": torch.zeros(100_000)}, path)
"""


def test_a_full_disk_leaves_the_file_before(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert "FtframeError" in done.stderr and "could not be written" in done.stderr
    assert "The one before it is intact" in done.stderr
    (path,) = (tmp_path / "checkpoints").iterdir()
    assert torch.load(path, weights_only=True)["w"].shape == (10,)


def test_what_torch_raises_where_a_write_fails_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(FtframeError, match=r"could not be written: .*unexpected pos"):
        WholeCheckpointIO().save_checkpoint(GOOD, tmp_path / "checkpoints" / "step.ckpt")
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_bit_that_flipped_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    WholeCheckpointIO().save_checkpoint({**GOOD, "state_dict": {"w": torch.ones(1000)}}, path)
    refuse_damaged(path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.ones(100).numpy().tobytes()) + 7] ^= 1
    path.write_bytes(content)
    assert not torch.equal(read_checkpoint(path)["state_dict"]["w"], torch.ones(1000))  # torch reads it all the same
    with pytest.raises(ConfigError, match=r"x\.ckpt is damaged: .* is not what was written"):
        refuse_damaged(path)
