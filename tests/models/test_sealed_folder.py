"""Folders that are whole, and as they were written."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ftframe
from ftframe.errors import ConfigError, FtframeError
from ftframe.models.sealed_folder import digests, verify, whole_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(folder, content="new"):
    with whole_folder(folder) as partial:
        assert partial.parent == folder.parent  # on the same filesystem, so that it can be renamed
        (partial / "a").write_text(content)
        assert not (folder / "a").exists() or (folder / "a").read_text() != content


def test_folder_appears_when_it_is_whole(tmp_path):
    write(tmp_path / "adapter")
    assert names(tmp_path) == ["adapter"]
    assert (tmp_path / "adapter" / "a").read_text() == "new"


def test_earlier_folder_is_replaced_and_strays_are_swept(tmp_path):
    for stray in ("adapter", ".adapter.partial", ".adapter.replaced"):
        (tmp_path / stray).mkdir()
        (tmp_path / stray / "old").write_text("old")
    write(tmp_path / "adapter")
    assert names(tmp_path) == ["adapter"]
    assert names(tmp_path / "adapter") == ["a"]


@pytest.mark.parametrize("before", [True, False], ids=["one before", "none before"])
def test_failure_leaves_what_was_there(before, tmp_path):
    if before:
        write(tmp_path / "adapter", "old")
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "adapter") as partial:
        (partial / "a").write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == (["adapter"] if before else [])
    assert not before or (tmp_path / "adapter" / "a").read_text() == "old"


def test_everything_is_on_the_disk_before_the_rename(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())) or fsync(fd))
    write(tmp_path / "adapter")
    partial = str(tmp_path / ".adapter.partial")
    assert synced == [f"{partial}/a", partial, str(tmp_path)]


WRITER = """
import sys; sys.path.insert(0, "{root}")
from pathlib import Path
from ftframe.models import sealed_folder
print("ready", flush=True)
number = 0
while True:
    number += 1
    with sealed_folder.whole_folder(Path(sys.argv[1])) as partial:
        for name in "abcdefgh":
            (partial / name).write_text(str(number))
"""


def test_killed_process_leaves_no_folder_that_only_looks_complete(tmp_path):
    """It is stopped two hundred times while it writes eight files again and again."""
    script = WRITER.replace("{root}", str(Path(ftframe.__file__).parents[1]))
    folder = tmp_path / "adapter"
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    checked = 0
    try:
        for attempt in range(200):
            time.sleep(0.001 * (attempt % 7))
            os.kill(process.pid, signal.SIGSTOP)  # as good as a kill for what stands on the disk, and quicker
            os.waitpid(process.pid, os.WUNTRACED)
            if folder.exists():
                contents = {path.name: path.read_text() for path in folder.iterdir()}
                assert sorted(contents) == list("abcdefgh")
                assert len(set(contents.values())) == 1
                checked += 1
            os.kill(process.pid, signal.SIGCONT)
    finally:
        process.kill()
        process.wait()
    assert checked >= 50
    write(folder)
    assert names(tmp_path) == ["adapter"]


@pytest.fixture
def sealed(tmp_path):
    """A folder, and what was in it when it was saved."""
    folder = tmp_path / "adapter"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.safetensors").write_bytes(b"weights" * 100)
    (folder / "sub" / "b.json").write_text("{}")
    (folder / "merges.txt").write_text("a b")
    (folder / "README.md").write_text("read me")
    (folder / ".gitattributes").write_text("x")
    return folder, digests(folder)


def test_digests_are_those_of_what_a_loader_may_read(sealed):
    folder, found = sealed
    assert sorted(found) == ["a.safetensors", "merges.txt", "sub/b.json"]
    assert found["a.safetensors"] == hashlib.sha256(b"weights" * 100).hexdigest()
    (folder / "ftframe.json").write_text("{}")
    (folder / "README.md").write_text("edited")
    verify(folder, found, beside="ftframe.json")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "flipped bit": (lambda f: flip(f / "a.safetensors"), r"a\.safetensors is not what was saved"),
    "truncated": (lambda f: os.truncate(f / "a.safetensors", 300), r"a\.safetensors is not what was saved"),
    "empty": (lambda f: os.truncate(f / "sub" / "b.json", 0), r"sub/b\.json is not what was saved"),
    "changed text": (lambda f: (f / "merges.txt").write_text("b a"), r"merges\.txt is not what was saved"),
    "missing": (lambda f: (f / "sub" / "b.json").unlink(), r"sub/b\.json is missing"),
    "added": (lambda f: (f / "chat_template.jinja").write_text(""), r"chat_template\.jinja is not in the list"),
    "code": (lambda f: (f / "modeling.py").write_text(""), r"modeling\.py is not in the list"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_folder_that_is_not_as_it_was_is_refused_by_name(damage, message, sealed):
    folder, expected = sealed
    damage(folder)
    with pytest.raises(FtframeError, match=message):
        verify(folder, expected, beside="ftframe.json")


def test_pickle_is_refused_even_if_it_is_listed(sealed):
    folder, expected = sealed
    (folder / "x.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"x\.bin is a pickle"):
        verify(folder, {**expected, **digests(folder)}, beside="ftframe.json")
