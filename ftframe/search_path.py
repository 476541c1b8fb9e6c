"""Where Hydra looks for config groups: ftframe's own folder, then those that installed distributions bring."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin

from ftframe import config_folders
from ftframe.config_files import check_file
from ftframe.config_folders import ConfigFolder
from ftframe.discovery import OWN
from ftframe.errors import ConfigError, PluginError
from ftframe.local_files import expanded
from ftframe.registry import remedy
from ftframe.schema import SCHEMAS

STORED = (*(f"{command}_schema" for command in SCHEMAS), "hydra/help/ftframe")
"""Configs that are no files, but that a file would shadow."""


class PluginConfigs(SearchPathPlugin):
    """Lets Hydra search the config folders of installed distributions.

    As folders, since Hydra would import the package behind a `pkg://` path: one that is slow or broken would be so for
    every command.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append each folder behind ftframe's own."""
        for folder in config_folders.usable():
            search_path.append(provider=folder.source, path=f"file://{folder.path}")


class CheckedFiles(FileConfigSource):
    """Config files of the user and of distributions; each is held to bounds before Hydra parses it."""

    def load_config(self, config_path: str) -> ConfigResult:
        """As Hydra's own, with errors that name the file.

        Raises:
            ConfigError: If the file is no config.
        """
        path = Path(self.path) / self._normalize_file_name(config_path)
        check_file(path)
        try:
            return super().load_config(config_path)
        except Exception as error:  # whatever the parser, Hydra or OmegaConf trips over
            raise ConfigError(f"{path}: {error or type(error).__name__}") from error


def register() -> None:
    """Make Hydra search those folders from now on, and check the files that it reads."""
    if PluginConfigs not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(PluginConfigs)
    SourcesRegistry.instance().types[CheckedFiles.scheme()] = CheckedFiles


def refuse_clashes_of(arguments: Sequence[str]) -> None:
    """As `refuse_clashes`, with the folders that a command line adds.

    Raises:
        PluginError: As `refuse_clashes`.
    """
    asked = read_flags(arguments)
    if not asked.shell_completion:  # which offers names alone, and whose errors would land in the middle of a line
        refuse_clashes([*_named_folder(asked.config_dir, "--config-dir"), *_searched_folders(asked.overrides)])


def read_flags(arguments: Sequence[str]) -> Namespace:
    """Hydra's own flags and the overrides.

    Raises:
        ConfigError: If there is no such flag, its value is missing or wrong, or it would swap the command's config.
    """
    said = StringIO()
    try:
        with redirect_stderr(said):
            asked = get_args_parser().parse_args(list(arguments))
    except SystemExit as leaving:
        if not leaving.code:  # --version
            raise
        reason = said.getvalue().rpartition("error: ")[2].strip()
        raise ConfigError(f"{reason}. `--hydra-help` lists the flags; all else is key=value or group=option.") from None
    is_swapped = asked.config_name is not None and f"--config-name={asked.config_name}" != arguments[0]
    if is_swapped or asked.config_path is not None:
        raise ConfigError("--config-name and --config-path swap the command's own config. --config-dir adds to it.")
    return asked


def find_clashes(further: Sequence[ConfigFolder] = ()) -> dict[str, list[ConfigFolder]]:
    """Everyone who has a config, for each that more than one has.

    Args:
        further: Folders that the command line adds.
    """
    own = config_folders.built_in()
    own = replace(own, options={**dict.fromkeys(STORED, Path("ftframe/schema.py")), **own.options})
    hydras = config_folders.read_folder(config_folders.find_package("hydra.conf"), source="hydra-core", owner=OWN)
    return config_folders.clashes([own, hydras, *config_folders.usable(), *further])


def refuse_clashes(further: Sequence[ConfigFolder] = ()) -> None:
    """Refuse two configs of one name, of which the first on the search path would win without a word.

    Args:
        further: Folders that the command line adds.

    Raises:
        PluginError: Naming each config and everyone who has it.
    """
    found = find_clashes(further)
    if found:
        rivals = {folder.owner or folder.source: folder for folders in found.values() for folder in folders}
        raise PluginError(f"{config_folders.describe_clashes(found)}\n{_clash_remedy(rivals.values())}")


def _clash_remedy(rivals: Iterable[ConfigFolder]) -> str:
    folders = [folder.source for folder in rivals if not folder.owner]
    if folders:
        return f"Rename the file below {folders[0]}: an option that is there already cannot be replaced."
    return remedy(folder.owner for folder in rivals)


def _named_folder(path: str | None, source: str) -> list[ConfigFolder]:
    """A folder that the command line names; Hydra itself complains where it does not exist."""
    return [config_folders.read_folder(expanded(path, key=source).absolute(), source=source)] if path else []


def _searched_folders(overrides: Sequence[str]) -> list[ConfigFolder]:
    """The folders of `hydra.searchpath=[...]`."""
    typed = [override for override in overrides if override.startswith("hydra.searchpath=")]
    given = [override.value() for override in OverridesParser.create().parse_overrides(typed)]
    values = [value for several in given if isinstance(several, list) for value in several]
    found: list[ConfigFolder] = []
    for value in values:
        scheme, _, path = str(value).rpartition("://")
        place = config_folders.find_package(path) if scheme == "pkg" else path
        found += _named_folder(str(place) if place else None, f"hydra.searchpath {value}")
    return found
