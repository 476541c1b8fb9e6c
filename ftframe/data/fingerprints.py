"""Hashes of what decides the tokens of an example: templates, tokenizers and builders, their source included.

They depend on content alone: not on where a package is installed, nor on the process that asks.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType
from typing import Any

from ftframe.api import PromptTemplate
from ftframe.data.tokenizer_template import TokenizerTemplate

FRAME = "ftframe"


def fingerprint_template(template: PromptTemplate, *, name: str, arguments: Mapping[str, Any]) -> str:
    """The sha256 of a prompt template: its class with its bases, their source, its arguments and its Jinja text.

    Args:
        template: The template.
        name: The name it is registered under.
        arguments: The keys beside `name` in `data.template`.
    """
    kind = type(template)
    parts: list[str | bytes] = [name, kind.__qualname__, canonical(arguments)]
    for base in inspect.getmro(kind):
        if not is_standard(base.__module__):
            parts += [base.__qualname__, *sources(base)]
    if isinstance(template, TokenizerTemplate):
        parts.append(template.jinja.source)
    return digest(parts)


def fingerprint_source(obj: Any) -> str:
    """The sha256 of a function or class: its name and the source of its module, or its code where there is no source.

    A partial function is hashed with its arguments, any other object as its class.
    """
    if isinstance(obj, functools.partial):
        return digest([fingerprint_source(obj.func), canonical(obj.args), canonical(obj.keywords)])
    obj = inspect.unwrap(obj)
    obj = obj if hasattr(obj, "__qualname__") else type(obj)
    return digest([obj.__qualname__, *sources(obj)])


def fingerprint_tokenizer(tokenizer: Any) -> str:
    """The sha256 of what a tokenizer makes of a text: its model, special tokens and added tokens."""
    added = {token_id: repr(token) for token_id, token in tokenizer.added_tokens_decoder.items()}
    parts = [canonical({name: str(token) for name, token in tokenizer.special_tokens_map.items()}), canonical(added)]
    return digest([*parts, *backend_of(tokenizer)])


def backend_of(tokenizer: Any) -> Iterator[str]:
    """What splits a text: the fast backend as it would be saved, else the vocabulary, switches and the model."""
    try:
        # What comes before the added tokens is how the last call cut and padded.
        yield tokenizer.backend_tokenizer.to_str().partition('"added_tokens":')[2]
    except Exception:  # there is none, or it runs Python code, which cannot be saved
        options = {name: value for name, value in tokenizer.init_kwargs.items() if isinstance(value, bool | int)}
        yield from (type(tokenizer).__qualname__, canonical(tokenizer.get_vocab()), canonical(options))
        model = getattr(tokenizer, "sp_model", None)
        if model is not None:
            yield model.serialized_model_proto().hex()


def sources(obj: Any) -> list[str | bytes]:
    """The source of an object's module and of the modules of its package that this one imports, directly or not.

    So a change of a plugin's helper module counts as a change of the plugin. Where the module has no source, as in a
    notebook, the object's own compiled code stands for it.
    """
    start = str(obj.__module__)
    if module_source(start) is None:
        return list(code_of(obj))
    top = start.partition(".")[0]
    package = start.rpartition(".")[0] if top == FRAME else top  # a change elsewhere in the frame is no matter
    texts: list[str | bytes] = []
    waiting, seen = [start], {start}
    while waiting:
        name = waiting.pop(0)
        text = module_source(name)
        if text is None:
            continue
        texts.append(text)
        fresh = [other for other in imported(text, name, package) if other not in seen]
        seen.update(fresh)
        waiting += fresh
    return texts


def imported(source: bytes, module: str, package: str) -> list[str]:
    """The modules of a package that a module imports, anywhere in its source."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, module)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return list(dict.fromkeys(name for name in names if f"{name}.".startswith(f"{package}.")))


def absolute(node: ast.ImportFrom, module: str) -> str:
    """The module that `from ... import` names, without leading dots."""
    if not node.level:
        return node.module or ""
    spec = importlib.util.find_spec(module)
    is_package = spec is not None and spec.submodule_search_locations is not None
    parents = module.split(".")
    parents = parents[: len(parents) - node.level + is_package]
    return ".".join([*parents, *([node.module] if node.module else [])])


def module_source(name: str) -> bytes | None:
    """The source of a module as it is installed, or None if there is none."""
    loaded = sys.modules.get(name)
    path = getattr(loaded, "__file__", None)
    if path is None and loaded is None:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):  # the name of something in a module
            return None
        path = spec.origin if spec is not None and spec.has_location else None
    if path is None or not path.endswith(".py"):
        return None
    file = Path(path)
    return file.read_bytes() if file.is_file() else None


def is_standard(module: str) -> bool:
    """Whether a module belongs to Python itself."""
    return module.partition(".")[0] in sys.stdlib_module_names


def code_of(obj: Any) -> Iterator[str]:
    """The compiled code of a function, or of all functions of a class, without file names and line numbers."""
    if isinstance(obj, type):
        for name, member in sorted(vars(obj).items()):
            inner = (getattr(member, attribute, None) for attribute in ("__func__", "fget", "func"))
            member = next(filter(None, inner), member)  # of a static or class method, a property, a cached one
            yield name
            if inspect.isfunction(member):
                yield from code_of(member)
            elif not name.startswith("__"):
                yield canonical(member)
    elif hasattr(obj, "__code__"):
        yield constant(obj.__code__)
        yield canonical([obj.__defaults__, obj.__kwdefaults__])


def constant(value: Any) -> str:
    """A constant of compiled code as text, the same in each process."""
    if isinstance(value, CodeType):
        names = [value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars]
        return f"code({value.co_code.hex()}, {names}, {[constant(item) for item in value.co_consts]})"
    if isinstance(value, frozenset):  # its order depends on the process
        return f"frozenset({sorted(map(constant, value))})"
    if isinstance(value, tuple):
        return f"({', '.join(map(constant, value))})"
    return repr(value)


def canonical(value: Any) -> str:
    """A value of a config as text, keys in order."""
    return json.dumps(value, sort_keys=True, default=lambda item: type(item).__qualname__)


def digest(parts: Iterable[str | bytes]) -> str:
    """The sha256 of some texts, such that moving a character from one to the next changes it."""
    total = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        total.update(f"{len(content)}:".encode())
        total.update(content)
    return total.hexdigest()
