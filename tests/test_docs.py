"""The pages of docs/, done as they say: their files written, their commands run, in order."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from processes import run_module

from ftframe import compose

DOCS = Path(__file__).parents[1] / "docs"
FENCE = re.compile(r"^```(\w+)(?: (run|file=(\S+)))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
QUIET = ("trainer.enable_progress_bar=false", "data.generate_examples=8")


def run_line(line: str, environment, folder: Path) -> None:
    command, *arguments = shlex.split(line)
    if command == "pip":
        arguments = ["install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet", *arguments[1:]]
    if arguments[0] == "fit":
        arguments += QUIET
    done = environment.run(command, *arguments, cwd=folder)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_plugins_page(new_environment, tmp_path):
    environment = new_environment()
    fences = FENCE.findall((DOCS / "plugins.md").read_text(encoding="utf-8"))
    written = [name for _, _, name, _ in fences if name]
    lines = [line for _, action, _, text in fences if action == "run" for line in text.splitlines()]
    assert (len(written), len(lines)) == (6, 8)
    for _, action, name, text in fences:
        if name:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        for line in text.splitlines() if action == "run" else ():
            run_line(line, environment, tmp_path)
    found = [json.loads(path.read_text())["final"] for path in sorted(tmp_path.glob("outputs/fit/*/metrics.json"))]
    logged = {"val/legal_f1", "val/Digits", "val/LengthError"}
    assert logged <= {name for final in found for name in final}
    assert len(found) == 3
    shown = next(text for language, _, _, text in fences if language == "toml")
    project = (tmp_path / "ftframe-legal" / "pyproject.toml").read_text()
    assert all(line.partition("  #")[0].rstrip() in project for line in shown.splitlines())


def experiment_commands() -> list[str]:
    """Every `ftframe fit` of the pages of experiments, each on one line."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((DOCS / "experiments").glob("*.md"))]
    fences = [text for page in texts for language, _, _, text in FENCE.findall(page) if language == "bash"]
    lines = [line for text in fences for line in text.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("ftframe fit")]


@pytest.mark.parametrize("line", experiment_commands())
def test_commands_of_the_experiments_compose(line):
    command, *overrides = shlex.split(line, comments=True)[1:]
    cfg = compose.check(compose.compose(command, overrides))
    compose.check_names(cfg)


def test_every_experiment_has_a_page_with_its_command():
    pages = {path.stem for path in (DOCS / "experiments").glob("*.md")}
    assert len(experiment_commands()) >= 11
    assert pages == {"domain_adaptation", "instruction_following", "knowledge_injection", "multi_task"}
    assert all(any(f"experiment={page}" in line for line in experiment_commands()) for page in pages)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "logged"),
    [
        ("instruction_following", {"val/exact_match"}),
        ("domain_adaptation", {"val/domain/loss", "val/general/loss"}),
        ("knowledge_injection", {"val/new_facts/exact_match", "val/old_facts/exact_match", "val/old_texts/loss"}),
        ("multi_task", {"val/questions/exact_match", "val/descriptions/exact_match"}),
    ],
)
def test_experiments_train_and_measure(experiment, logged, tmp_path):
    done = run_module("ftframe", "fit", f"experiment={experiment}", "trainer.max_steps=4", *QUIET, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("outputs/fit/*/metrics.json")
    metrics = json.loads(path.read_text())
    assert logged <= set(metrics["final"])
    assert metrics["final"]["val/loss"] < metrics["baseline"]["val/loss"]


def test_every_link_leads_somewhere():
    pages = [*DOCS.rglob("*.md"), *(DOCS.parent / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"))]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())]
    assert len(links) >= 4
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []
