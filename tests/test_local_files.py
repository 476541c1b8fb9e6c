"""Objects of files that are no package."""

from __future__ import annotations

import hashlib

import pytest

from ftframe.errors import ConfigError, PluginError
from ftframe.local_files import is_local, load_local, local_source


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("./a.py:b", True),
        ("a.py:b", True),
        ("/x/a.py:B", True),
        ("~/a.py:b", True),
        ("people", False),
        ("a.b:c", False),
    ],
)
def test_is_local(name, expected):
    assert is_local(name) == expected


def test_relative_path_starts_at_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("build = 'here'\n")
    monkeypatch.chdir(tmp_path)
    assert load_local("./mine.py:build", key="k") == "here"
    assert load_local(f"{tmp_path}/mine.py:build", key="k") == "here"


def test_executed_once_until_it_changes(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("class Thing: ...\n")
    first = load_local(f"{file}:Thing", key="k")
    assert load_local(f"{file}:Thing", key="k") is first
    file.write_text("class Thing: ...\n# changed\n")
    assert load_local(f"{file}:Thing", key="k") is not first


def test_dataclass_in_it_works(tmp_path):
    """`dataclasses` looks the module up in `sys.modules`."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n"
    )
    assert load_local(f"{file}:A", key="k")(x=1).x == 1


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (None, ConfigError, "k=F:build: there is no file F below "),
        ("biuld = 1", ConfigError, "F has no 'build'. Did you mean 'biuld'?"),
        ("1 / 0", PluginError, "k=F:build: the file does not import:\nZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", PluginError, "the file does not import:\nSystemExit: 3"),
        ("def build(:", PluginError, "the file does not import:\nSyntaxError"),
    ],
    ids=["missing", "attribute", "raises", "leaves", "syntax"],
)
def test_what_is_wrong_is_said(code, error, message, tmp_path):
    file = tmp_path / "mine.py"
    if code is not None:
        file.write_text(code)
    for _ in range(2):  # a module that failed is not kept
        with pytest.raises(error) as caught:
            load_local(f"{file}:build", key="k")
        assert message.replace("F", str(file)) in str(caught.value)


def test_source_is_the_file_and_its_digest(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("build = 1\n")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert local_source(f"{file}:build") == f"{file} (sha256 {digest})"
