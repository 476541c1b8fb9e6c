"""Files that are whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftframe.durable_files import sha256, write_json


def test_write_json_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"a": "x" * 1000})
    write_json(path, {"b": 1, "where": Path("p")})
    assert json.loads(path.read_text()) == {"b": 1, "where": "p"}
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_write_json_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1})
    circular: dict[str, object] = {}
    circular["self"] = circular
    with pytest.raises(ValueError, match="Circular"):
        write_json(path, circular)

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_bytes()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]


@given(st.binary(max_size=300))
def test_sha256_is_hashlibs(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "digest"
    path.write_bytes(content)
    assert sha256(path) == hashlib.sha256(content).hexdigest()
