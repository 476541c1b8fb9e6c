"""Which checkpoints a run has, and that none is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftframe.errors import ConfigError
from ftframe.train.checkpoint_store import CheckpointStore


def save(store: CheckpointStore, step: int, *, best: int | None = None) -> None:
    store.folder.mkdir(exist_ok=True)
    store.path(step).write_bytes(f"state of {step}".encode())
    store.commit(step, best=best, facts={"world_size": 1})


def files(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def test_nothing_saved_is_nothing(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "none").newest() is None


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (1, 2, 3, 4):
        save(store, step, best=1)
    assert files(store) == ["manifest.json", "step-00000001.ckpt", "step-00000003.ckpt", "step-00000004.ckpt"]
    store.mark_best(4)
    assert files(store) == ["manifest.json", "step-00000003.ckpt", "step-00000004.ckpt"]
    newest = store.newest()
    assert newest is not None and newest.step == 4
    assert store.facts() == {"world_size": 1}


def test_a_step_saved_again_replaces_itself(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    save(store, 3)
    store.path(3).write_bytes(b"other")
    store.commit(3, best=None, facts={})
    newest = store.newest()
    assert newest is not None and newest.size == 5
    assert len(store.entries()) == 1


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "bit flipped": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_one_is_passed_over_and_said(damage, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 1)
    save(store, 2)
    damage(store.path(2))
    newest = store.newest()
    assert newest is not None and newest.step == 1
    assert "step-00000002.ckpt" in caplog.text
    damage(store.path(1))
    with pytest.raises(ConfigError, match=r"holds no checkpoint that is whole: step-00000002\.ckpt"):
        store.newest()


def test_one_that_was_passed_over_does_not_drive_out_those_that_follow(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    save(store, 9)
    store.keep = 2
    save(store, 10, best=10)
    store.path(10).write_bytes(b"damaged")
    newest = store.newest()
    assert newest is not None and newest.step == 9
    store.keep = 1
    store.forget_after(9)
    assert files(store) == ["manifest.json", "step-00000009.ckpt"]
    assert json.loads((tmp_path / "manifest.json").read_text())["best"] is None


def test_a_file_without_an_entry_was_never_finished(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 1)
    store.path(2).write_bytes(b"written, and killed before the manifest")
    (tmp_path / ".partial-step-00000003.ckpt").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    newest = store.newest()
    assert newest is not None and newest.step == 1
    store.sweep()
    assert files(store) == ["manifest.json", "notes.txt", "step-00000001.ckpt"]


MANIFESTS = {
    "no json": b"{",
    "a list": b"[]",
    "another format": b'{"format": 2}',
    "no checkpoints": b'{"format": 1}',
    "unknown field": b'{"format": 1, "checkpoints": [{"name": "x"}]}',
    "a path outside": json.dumps(
        {"format": 1, "checkpoints": [{"file": "../../evil.ckpt", "step": 1, "size": 1, "sha256": ""}]}
    ).encode(),
    "an absolute path": json.dumps(
        {"format": 1, "checkpoints": [{"file": "/tmp/step-00000001.ckpt", "step": 1, "size": 1, "sha256": ""}]}
    ).encode(),
    "a step that is a text": json.dumps(
        {"format": 1, "checkpoints": [{"file": "step-00000001.ckpt", "step": "1", "size": 1, "sha256": ""}]}
    ).encode(),
    "no utf-8": b"\xff\xfe",
}


@pytest.mark.parametrize("content", MANIFESTS.values(), ids=MANIFESTS)
def test_a_damaged_manifest_is_refused_by_its_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"manifest\.json is damaged: "):
        CheckpointStore(tmp_path).newest()
