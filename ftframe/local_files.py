"""`./my_data.py:build`: an object of a file of one's own, for what needs no package."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ftframe.errors import ConfigError, PluginError, did_you_mean

MARK = ".py:"


def is_local(name: str) -> bool:
    """Whether a name stands for an object of a local file; no registered name has that form."""
    return MARK in name


def load_local(name: str, *, key: str) -> Any:
    """The object of a local file; a relative path starts at the working folder.

    Args:
        name: `path/to/file.py:attribute`.
        key: The config key that gives it, for messages.

    Raises:
        ConfigError: If there is no such file, or it has no such attribute.
        PluginError: If the file does not import.
    """
    path, attribute = _parts(name)
    module = _import(_existing(path, name=name, key=key), name=name, key=key)
    public = [given for given in vars(module) if not given.startswith("_")]
    if attribute not in vars(module):
        raise ConfigError(f"{key}={name}: {path} has no '{attribute}'.{did_you_mean(attribute, public)}")
    return getattr(module, attribute)


def local_source(name: str) -> str:
    """The file behind a name and the digest of its content, for a run's manifest."""
    path, _ = _parts(name)
    return f"{path} (sha256 {hashlib.sha256(path.expanduser().read_bytes()).hexdigest()})"


def expanded(path: str, *, key: str) -> Path:
    """A path with the home folder written out, which the system can be asked about.

    Args:
        path: As the config gives it.
        key: The key that gives it, for messages.

    Raises:
        ConfigError: If it names the home of no one, is too long, or lies where this user may not look.
    """
    try:
        file = Path(path).expanduser()
        file.exists()
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{key}={path}: {getattr(error, 'strerror', None) or error}") from error
    return file


def _parts(name: str) -> tuple[Path, str]:
    """The file and the attribute."""
    path, _, attribute = name.rpartition(":")
    return Path(path), attribute


def _existing(path: Path, *, name: str, key: str) -> Path:
    file = expanded(str(path), key=key)
    if file.is_file():
        return file.resolve()
    near = [found.name for found in file.parent.glob("*.py")] if file.parent.is_dir() else []
    raise ConfigError(f"{key}={name}: there is no file {path} below {Path.cwd()}.{did_you_mean(file.name, near)}")


def _import(file: Path, *, name: str, key: str) -> ModuleType:
    """The file's module, executed once in a process as long as its content stays the same.

    Raises:
        PluginError: If executing it raises.
    """
    digest = hashlib.sha256(bytes(file) + file.read_bytes()).hexdigest()[:12]
    module_name = f"ftframe_local_{file.stem}_{digest}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None and spec.loader is not None, f"{file} ends in .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickle look a class's module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[module_name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise PluginError(f"{key}={name}: the file does not import:\n{type(error).__name__}: {error}") from error
    return module
