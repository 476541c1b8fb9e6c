"""Documents that are almost right."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

ROWS: dict[str, list[Any]] = {
    "prompt": [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(8)],
    "alpaca": [{"instruction": f"Say {n}", "input": "so" * (n % 2), "output": f"It is {n}."} for n in range(8)],
    "messages": [
        {"messages": [{"role": r, "content": f"{r} {n}"} for r in ("system", "user", "assistant")]} for n in range(8)
    ],
    "sharegpt": [
        {"conversations": [{"from": r, "value": f"{r} {n}"} for r in ("human", "gpt", "human", "gpt")]}
        for n in range(8)
    ],
    "parts": [
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": f"What is {n}?"}]},
                {"role": "assistant", "content": "one", "weight": 1},
            ]
        }
        for n in range(8)
    ],
    "text": [{"text": f"A text of {n} words."} for n in range(8)],
}

RAW = (
    b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\r\n", b"\r", b"\n", b" ", b"\t", b'"', b"\\", b"\\ud800",
    b"\\u0000", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"{", b"}", b"]", b",",
    b":", b"null", b"//", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\xc2\x85", b"\xe2\x80\xa8", b"x" * 200_000, b"'",
    b";", b"\x1a", b"\x1b[31m",
)  # fmt: skip
"""What is put between bytes."""

texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", " ", "\0", "\ud800", "user", "assistant", "system", "robot", "x" * 10_000, "\u202e", "[b]", "<s>"]
    ),
)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        texts,
        st.sampled_from([10**400, -0.0, 1e308, float("nan"), float("inf")]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
"""Any value that JSON has."""


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value below a value, itself included."""
    yield place
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*place, key))


def changed(value: Any, place: Sequence[Any], new: Any) -> Any:
    """The value with another at one place; without it, where that is `...`."""
    if not place:
        return {} if new is ... else new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(place) == 1 and new is ...:
        del copy[place[0]]
    else:
        copy[place[0]] = changed(copy[place[0]], place[1:], new)
    return copy


@st.composite
def rows(draw: st.DrawFn) -> list[Any]:
    """Rows of one format, up to two of which have another value, or none, at some place."""
    good = ROWS[draw(st.sampled_from(sorted(ROWS)))]
    several = list(good)
    for _ in range(draw(st.integers(0, 2))):
        index = draw(st.integers(0, len(several) - 1))
        place = draw(st.sampled_from(list(places(several[index]))))
        several[index] = changed(several[index], place, draw(st.one_of(values, st.just(...))))
    return several


def as_csv(several: Sequence[Any], delimiter: str) -> bytes:
    """The rows as CSV, what is no text as JSON."""
    file = io.StringIO()
    names = list(dict.fromkeys(str(name) for row in several if isinstance(row, dict) for name in row))
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(names)
    for row in several:
        cells = row if isinstance(row, dict) else {}
        writer.writerow(
            [cells.get(name) if isinstance(cells.get(name), str) else json.dumps(cells.get(name)) for name in names]
        )
    return file.getvalue().encode("utf-8", "surrogatepass")


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file's suffix and its bytes, most of which are as they should be."""
    several = draw(rows())
    suffix = draw(st.sampled_from([".jsonl", ".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".txt", ".md"]))
    ascii_only = draw(st.booleans())
    if suffix in (".csv", ".tsv"):
        content = as_csv(several, "\t" if suffix == ".tsv" else ",")
    elif suffix == ".json" and draw(st.booleans()):
        content = json.dumps(several, ensure_ascii=ascii_only, indent=1).encode("utf-8", "surrogatepass")
    else:
        lines = [json.dumps(row, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass") for row in several]
        content = b"\n".join(lines)
    return suffix, draw(mutated(content))


@st.composite
def mutated(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes after up to three accidents."""
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        to = min(len(content), at + draw(st.integers(0, 40)))
        accident = draw(st.sampled_from(["insert", "insert", "flip", "cut", "drop", "repeat", "noise", "whole"]))
        if accident == "insert":
            content = content[:at] + draw(st.sampled_from(RAW)) + content[at:]
        elif accident == "flip" and at < len(content):
            content = content[:at] + bytes([content[at] ^ (1 << draw(st.integers(0, 7)))]) + content[at + 1 :]
        elif accident == "cut":
            content = content[:at]
        elif accident == "drop":
            content = content[:at] + content[to:]
        elif accident == "repeat":
            content = content[:to] + content[at:]
        elif accident == "noise":
            content = content[:at] + draw(st.binary(max_size=20)) + content[to:]
        else:
            content = draw(st.sampled_from(WHOLE))(content)
    return content


WHOLE = (
    lambda content: content.replace(b"\n", b"\r\n"),
    lambda content: content.replace(b"\n", b"\r"),
    lambda content: content.replace(b"\n", b""),
    lambda content: content.replace(b"\n", b"\n\n \n"),
    lambda content: content.decode("utf-8", "replace").encode("utf-16"),
    lambda content: content.decode("utf-8", "replace").encode("utf-16-le"),
    lambda content: content.decode("utf-8", "replace").encode("latin-1", "replace"),
    lambda content: content.replace(b'"', b"'"),
    lambda content: b"",
    lambda content: b"\n \n\t\n",
    lambda content: content * 2,
)
"""Accidents of a whole file."""

EXPERIMENT = """\
# @package _global_
defaults:
  - override /data: jsonl
  - override /model: mine
  - override /peft: lora

seed: 3
data:
  max_length: 128
  batch_size: 2
  on_bad_row: skip
  dataset:
    path: rows.jsonl
    columns: {prompt: prompt, completion: completion}
  template:
    name: plain
peft:
  r: &rank 4
  lora_alpha: *rank
  target_modules: [q_proj, v_proj]
optim:
  lr: 2e-4
  betas: [0.9, 0.99]
scheduler:
  warmup_ratio: 0.1
metrics:
  - name: exact_match
trainer:
  max_epochs: 1
callbacks:
  early:
    _target_: lightning.pytorch.callbacks.EarlyStopping
    monitor: val/loss
"""
MODEL = """\
path: pkg://ftframe.embedded/tiny
template: ${oc.env:HOME,plain}
learning_rate: 1e-3
init: pretrained
"""
ODD_VALUES = (
    "", "null", "~", "???", "true", "1", "-1", "1e400", ".nan", ".inf", "0x10", "1:30", "2026-01-01", "'1'", '"', "'",
    "text", "[]", "{}", "[1, [2, {a: b}]]", "{a: {b: c}}", "[", "{", "&a [*a]", "*b", "&a a",
    "!!python/object/apply:os.system ['x']", "!!binary aGk=", "!!int x", "!!float x", "!!set {a, b}", "!mine x",
    "| \n  a\n  b", "> a", "- a", "? a", "%TAG", "--- a", "${seed}", "${data.max_length}", "${nope}", "${nope:1}",
    "${oc.env:NOT_THERE}", "${oc.env:HOME}", "${", "${}", "${a", "\\${a}", "${oc.select:nope,null}",
    "${oc.decode:x(}", "${ftframe.run_id:}", "${ftframe.run_id:1}", "${.}", "${..seed}", "${data}",
    "${oc.create:{a:1}}", "${now:%Y}", "${hydra:job.name}", "\u202e", "\x07", "a: b", "@", "`", "<<: *x",
    "x" * 20_000, "9" * 500, "../x", "/", ".", "~nobody/x", "a\0b", "\ud800", "NaN", "1_000", "0o7", "=",
    "[prompt, completion]", "os.system",
)  # fmt: skip
"""What is written in place of a value."""


@st.composite
def documents(draw: st.DrawFn, text: str) -> bytes:
    """A YAML document after up to three changes of lines, and maybe of bytes."""
    lines = text.split("\n")
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 3]))):
        at = draw(st.integers(0, len(lines) - 1))
        line = lines[at]
        key, colon, value = line.partition(": ") if ": " in line else line.partition(":")
        change = draw(st.sampled_from(["value", "value", "value", "drop", "twice", "indent", "tab", "key", "parent"]))
        if change == "value":
            lines[at] = f"{key}: {draw(st.sampled_from(ODD_VALUES))}"
        elif change == "drop":
            lines[at : at + 1] = []
        elif change == "twice":
            lines.insert(draw(st.integers(0, len(lines))), line)
        elif change == "indent":
            lines[at] = " " * draw(st.integers(0, 5)) + line.lstrip()
        elif change == "tab":
            lines[at] = line.replace("  ", "\t", 1)
        elif change == "key":
            lines[at] = f"{' ' * (len(line) - len(line.lstrip()))}{draw(st.sampled_from(ODD_VALUES))}{colon} {value}"
        else:
            lines[at] = f"{key}: {draw(st.sampled_from(ODD_VALUES))}"
            del lines[at + 1 : at + 3]
        lines = lines or [""]
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    return draw(mutated(content)) if draw(st.integers(0, 7)) == 0 else content


def keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Every key of a config, those of its nodes too."""
    for name, child in node.items():
        yield f"{prefix}{name}"
        if isinstance(child, dict):
            yield from keys(child, f"{prefix}{name}.")


TYPED_VALUES = (
    "", "null", "true", "abc", "-1", "0", "0.5", "1e400", "nan", "inf", "[]", "[1]", "[a,[b]]", "{}", "{a:1}",
    "{name:x}", "'", '"', "'a", '"a"', "[", "{", "]", "a=b", "a,b", "1,2", "choice(1,2)", "range(3)", "interval(0,1)",
    "glob(*)", "int(x)", "str(1)", "sort(a)", "shuffle(1)", "f()", "${seed}", "${nope}", "${oc.env:NOT_THERE}", "${",
    "???", "\\", "\\'", "\t", "\n", "\x1b[31m", "\u202e", "\ud800", "é", "🙂", "x" * 5000, "9" * 5000, "[" * 300,
    "{a:" * 300, "../x", "/", ".", "..", "~", "none", "mine", "${oc.env:HOME}", "${.}", "${data}", "*", "a b", "a: b",
    "#", "%", "@x", "[a", "{_target_: os.system}", "os.system", "\x00",
)  # fmt: skip


def overrides(known: Sequence[str]) -> st.SearchStrategy[list[str]]:
    """One or two overrides: known keys with odd values, and odd texts."""
    key = st.one_of(st.sampled_from(known), st.sampled_from(known), st.sampled_from(ODD_KEYS), texts)
    value = st.one_of(st.sampled_from(TYPED_VALUES), st.sampled_from(TYPED_VALUES), texts)
    one = st.builds(
        "{}{}{}{}".format,
        st.sampled_from(["", "", "", "+", "++", "~"]),
        key,
        st.sampled_from(["=", "=", "=", "=", "", ":", "@x="]),
        value,
    )
    return st.lists(st.one_of(one, one, one, texts), min_size=1, max_size=2)


ODD_KEYS = (
    "", ".", "..", "a.b.c", "data.", ".data", "data..path", "data.dataset.path.x", "hydra.run.dir", "hydra.mode",
    "hydra", "hydra/launcher", "hydra.searchpath", "hydra.job.chdir", "hydra.verbose", "hydra/job_logging",
    "defaults", "_target_", "data/dataset", "/data", "data@x", "data@data.x", "trainer._target_", "trainer._args_",
    "trainer._recursive_", "peft._convert_", "data.tasks.a", "data.tasks.a.dataset.name", "callbacks.a",
    "callbacks.a._target_", "metrics.0", "metrics[0]", "metrics.0.name", "optim.betas.0", "model.config.x", "-",
    "--cfg", "--config-dir", "--config-name", "--nope", "-x", "--info", "--package", "--multirun", "-cd", "--help=",
    "--hydra-help", "--version", "-p",
)  # fmt: skip
