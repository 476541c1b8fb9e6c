"""Secrets never reach what a run writes: config, overrides, manifest, console, log and messages."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from rich.console import Console

from ftframe import cli, console, redaction, runs
from ftframe.errors import ConfigError
from ftframe.redaction import REDACTED, redact, redact_overrides, redact_text


@pytest.fixture(autouse=True)
def nothing_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test has learnt is not known in the next."""
    monkeypatch.setattr(redaction, "_learnt", set())


SECRET_KEYS = (
    *("api_key", "apikey", "wandb_api_key", "hf_token", "token", "access_token", "auth_token", "HF_TOKEN", "password"),
    *("db_password", "secret", "client_secret", "aws_secret_access_key", "private_key", "Authorization", "credentials"),
    *("x-api-key", "secret_key"),
)
OTHER_KEYS = (
    *("max_new_tokens", "tokenizer", "tokens_per_second", "stop_token_ids", "pad_token_id", "keyword", "monkey"),
    *("secretary", "eos_token", "pad_token", "data.unk_token", "token_type", "sort_key", "val/token_accuracy"),
)


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_what_stands_under_a_secret_key_is_left_out(key: str) -> None:
    assert redact({key: "s3c"}) == {key: REDACTED}
    assert redact({"a": [{"b": {key: "s3c"}}]}) == {"a": [{"b": {key: REDACTED}}]}
    assert redact({key: ["s3c", {"inner": "s4c"}]}) == {key: [REDACTED, {"inner": REDACTED}]}
    typed = [f"{key}=s3c", f"+logger.{key}=a=b", f"+logger={{{key}: s3c}}", f"+x=[{{a: 1, '{key}': s3c}}]", "seed=1"]
    redacted = [f"{key}={REDACTED}", f"+logger.{key}={REDACTED}", f"+logger={REDACTED}", f"+x={REDACTED}", "seed=1"]
    assert redact_overrides(typed) == redacted


@pytest.mark.parametrize("key", OTHER_KEYS)
def test_what_is_no_secret_is_kept(key: str) -> None:
    node = {key: "value", "list": [{key: 3}]}
    assert redact(node) == node
    typed = [f"{key}=value", f"+a={{{key}: value}}"]
    assert redact_overrides(typed) == typed
    assert redact_text(f"{key}=value, '{key}': 'value'") == f"{key}=value, '{key}': 'value'"


@pytest.mark.parametrize("value", [None, ""], ids=["null", "empty"])
def test_absent_secret_is_seen_to_be_absent(value: str | None) -> None:
    assert redact({"token": value}) == {"token": value}


SHAPES = {
    "hub": "hf_" + "aB3" * 11,
    "sk": "sk-proj-" + "aB3_" * 6,
    "git": "ghp_" + "aB3" * 12,
    "fine-grained": "github_pat_" + "aB3_" * 10,
    "aws": "AKIA" + "ABCD1234EFGH5678",
    "slack": "xoxb-1234567890-abcdef",
    "jwt": "eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSM",
}


@pytest.mark.parametrize("secret", SHAPES.values(), ids=SHAPES)
def test_what_looks_like_a_token_is_left_out(secret: str) -> None:
    assert redact_text(f"a {secret} b") == f"a {REDACTED} b"
    assert redact({"note": [f"see {secret}"]}) == {"note": [f"see {REDACTED}"]}
    assert redact_overrides([f"prompt=say {secret}"]) == [f"prompt=say {REDACTED}"]


IN_TEXT = [
    ("https://me:pass@host/x", "https://<redacted>@host/x"),
    ("git+ssh://git@host/x", "git+ssh://git@host/x"),
    ("Authorization: Bearer abc.def-123", "Authorization: Bearer <redacted>"),
    ("GET /x?token=abc&y=1", "GET /x?token=<redacted>&y=1"),
    ("{'api_key': 'a b', 'n': 1}", "{'api_key': <redacted>, 'n': 1}"),
    ("+logger={api_key: abc}", "+logger={api_key: <redacted>}"),
    ("the stop token: </s>", "the stop token: </s>"),
    ("a task-oriented tokenizer, pad_token=</s>", "a task-oriented tokenizer, pad_token=</s>"),
]


@pytest.mark.parametrize(("text", "expected"), IN_TEXT)
def test_text(text: str, expected: str) -> None:
    assert redact_text(text) == expected


def test_value_of_a_secret_is_left_out_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_HUB_TOKEN", "from the environment")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "parallel")
    node = {"a": {"api_key": "hunter2hunter2"}, "b": ["x hunter2hunter2"], "c": "from the environment", "d": "parallel"}
    assert redact(node) == {"a": {"api_key": REDACTED}, "b": [f"x {REDACTED}"], "c": REDACTED, "d": "parallel"}
    assert redact_text("failed for hunter2hunter2") == f"failed for {REDACTED}"


# Begun and ended so that it is no word that a run writes anyway.
PASSWORDS = (
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=4, max_size=16)
    .filter(lambda text: not set(text) & set("${}\\"))
    .map(lambda text: f"q7{text}z9")
)
TREES = st.recursive(
    st.one_of(st.integers(), st.text("abc ", max_size=5), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text("xyz", min_size=1), inner)),
    max_leaves=8,
)


def dumps(folder: Path, cfg: dict[str, Any], typed: list[str], said: str) -> Iterator[tuple[str, str]]:
    """Everything that a run writes about itself, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ftframe", *typed])
        patch.setattr(runs, "_typed", typed)
        patch.setattr(runs, "_git_commit", lambda: None)  # a process for each case would take most of the time
        shown = io.StringIO()
        patch.setattr(console, "console", Console(file=shown, width=10_000))
        console.print_config(OmegaConf.create(cfg))
        runs.write_config(folder, OmegaConf.create(cfg))
        runs.write_manifest(folder, {"template": cfg, "said": said})
        formatter = redaction.RedactingFormatter("%(message)s")
        try:
            raise ValueError(said)
        except ValueError:
            record = logging.LogRecord("x", 40, "f", 1, "it was %s, %r", (said, said), sys.exc_info())
        yield "console", shown.getvalue()
        yield "log", formatter.format(record)
        yield "error", redact_text(f"error: {said}")
    for name in ("config.yaml", "overrides.yaml", "manifest.json"):
        text = (folder / name).read_text(encoding="utf-8")
        yield name, str(json.loads(text) if name.endswith("json") else yaml.safe_load(text))


@given(PASSWORDS, st.sampled_from(SECRET_KEYS), TREES, st.sampled_from(["{}", "a {} b", "x={}", "['{}']"]))
def test_planted_secret_is_in_no_dump(
    tmp_path_factory: pytest.TempPathFactory, secret: str, key: str, tree: Any, elsewhere: str
) -> None:
    """It stands under a key that names a secret, and again where no key says so."""
    redaction._learnt.clear()
    said = elsewhere.format(secret)
    cfg = {"command": "fit", "tree": tree, "logger": {"deep": [{key: secret}]}, "note": said, "more": {"list": [said]}}
    typed = [f"+logger.{key}={secret}", f"+note={said}", f"+logger={{{key}: '{secret}'}}"]
    written = dict(dumps(tmp_path_factory.mktemp("run"), cfg, typed, said))
    assert len(written) == 6
    for name, text in written.items():
        assert secret not in text, name
        assert REDACTED in text, name


@given(st.from_regex(r"hf_[A-Za-z0-9]{20,34}", fullmatch=True), TREES)
def test_planted_token_is_in_no_dump(tmp_path_factory: pytest.TempPathFactory, token: str, tree: Any) -> None:
    """Nothing but its shape tells that it is one."""
    redaction._learnt.clear()
    cfg = {"command": "fit", "tree": tree, "note": f"use {token}", "list": [{"a": token}]}
    for name, text in dumps(tmp_path_factory.mktemp("run"), cfg, [f"+note={token}"], f"use {token}"):
        assert token not in text, name


def test_message_and_traceback_of_the_command_hold_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ftframe", "fit", "+logger={api_key: hunter2hunter2}"])
    monkeypatch.setenv("FTFRAME_TRACEBACK", "1")

    for error in (ConfigError("hunter2hunter2 is wrong"), RuntimeError("hunter2hunter2 broke")):

        def fail(_: list[str], error: Exception = error) -> int:
            raise error

        monkeypatch.setattr(cli, "_dispatch", fail)
        with pytest.raises(SystemExit):
            cli.main()
        said = capsys.readouterr().err
        assert "Traceback" in said
        assert REDACTED in said
        assert "hunter2" not in said
