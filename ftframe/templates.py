"""The prompt templates of a config and of an artifact."""

from __future__ import annotations

import logging
from typing import Any

from ftframe.api import PromptTemplate
from ftframe.console import print_line
from ftframe.data.fingerprints import fingerprint_template
from ftframe.errors import ConfigError
from ftframe.local_files import is_local
from ftframe.models.record import Record
from ftframe.nodes import plain
from ftframe.registry import prompt_templates

logger = logging.getLogger(__name__)


def build_template(node: Any, tokenizer: Any, *, key: str = "data.template") -> PromptTemplate:
    """The prompt template by name.

    Raises:
        ConfigError: If an argument is wrong.
        PluginError: If no package registers the name.
    """
    template: PromptTemplate = prompt_templates.build(plain(node), key=key, tokenizer=tokenizer)
    return template


def task_templates(data: Any) -> dict[str, Any]:
    """The node of each task's prompt template; nothing where all follow `data.template`."""
    if not any(task.template for task in data.tasks.values()):
        return {}
    return {name: plain(task.template or data.template) for name, task in data.tasks.items()}


def template_sha256(node: Any, template: PromptTemplate) -> str:
    """The hash of a prompt template that was built from a node of the config."""
    arguments = dict(plain(node))
    return fingerprint_template(template, name=arguments.pop("name"), arguments=arguments)


def artifact_template(record: Record, typed: Any, tokenizer: Any, *, task: str | None = None) -> PromptTemplate:
    """The prompt template that an artifact was trained with; a warning tells where its code has changed since.

    Args:
        record: What stands beside the artifact. A name there is looked up among installed packages, but a local file is
            not run because an artifact names it.
        typed: The config's node `template`, by which the user names that file.
        tokenizer: The artifact's tokenizer.
        task: Whose template, of a run whose tasks have their own.

    Raises:
        ConfigError: If the artifact's template is a local file and none is typed, or the other way round.
        PluginError: If no package registers the name.
    """
    saved = record.template if task is None else record.tasks[task]
    given, name = plain(typed), saved["name"]
    if not is_local(name) and given["name"] is not None:
        raise ConfigError(f"template.name={given['name']}: this run has a template of its own, '{name}'.")
    if is_local(name) and given["name"] is None:
        raise ConfigError(
            f"This run's prompt template is the local file {name}, and code is not run because an artifact names it. "
            f"If you trust that file, say so: template.name={name}"
        )
    node = {**saved, **given} if is_local(name) else saved
    template = build_template(node, tokenizer, key="template")
    if task is None and record.template_sha256 not in ("", template_sha256(saved, template)):
        warning = (
            f"The prompt template '{name}' is not the one of the training: its code or its Jinja text has changed "
            "since, so prompts may be written otherwise than the model has learnt them."
        )
        logger.warning(warning)
        print_line(f"Warning: {warning}")
    return template
