"""What ftframe asks of a plugin, and the numbers that only its author knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftframe.testing import (
    check_configs_compose,
    check_dataset,
    check_import_time,
    check_metric,
    check_prompt_template,
)

DISTRIBUTION = "ftframe-newplugin"


def test_dataset() -> None:
    splits = check_dataset("newplugin")
    question, answer = splits["train"][0]
    assert (question.role, answer.role) == ("user", "assistant")


def test_dataset_takes_the_good_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": "a?", "answer": "b"}\n{"question": "a?"}\nnonsense\n')
    assert len(check_dataset("newplugin", path=str(file))["train"]) == 1


def test_prompt_template() -> None:
    check_prompt_template("newplugin")


def test_prompt_template_writes_every_row_of_the_dataset() -> None:
    check_prompt_template("newplugin", check_dataset("newplugin")["train"])


def test_metric() -> None:
    pairs = [("the cat", "The cat"), ("the dog", "the cat"), ("", "cat")]
    assert check_metric("newplugin_f1", pairs) == pytest.approx((1 + 0.5 + 0) / 3)


def test_configs_compose() -> None:
    assert "data=newplugin" in check_configs_compose(DISTRIBUTION)


def test_import_is_quick() -> None:
    check_import_time(DISTRIBUTION)
