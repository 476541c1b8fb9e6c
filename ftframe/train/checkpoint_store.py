"""The checkpoints of a run on the disk: which there are, which are whole, and which are kept."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ftframe.durable_files import PARTIAL, sha256, write_json
from ftframe.errors import ConfigError

MANIFEST = "manifest.json"
FORMAT = 1
_NAME = re.compile(r"step-\d{8}\.ckpt")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One checkpoint of the manifest.

    Attributes:
        file: Its name in the folder.
        step: Optimizer steps that it has seen.
        size: In bytes.
        sha256: Digest of its content.
    """

    file: str
    step: int
    size: int
    sha256: str


class CheckpointStore:
    """The folder `checkpoints/` of a run.

    Its manifest is written last and names each checkpoint with its digest: a file that it does not name was never
    finished, or is no longer wanted. A checkpoint is taken away only after a manifest without it is on the disk.

    Attributes:
        folder: Where the files are.
        keep: How many of the newest are kept; the best one is kept beside them.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        """Name the folder; nothing is made or read yet."""
        self.folder = folder
        self.keep = keep

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is written to."""
        return self.folder / f"step-{step:08d}.ckpt"

    def commit(self, step: int, *, best: int | None, facts: Mapping[str, Any]) -> None:
        """Take a whole file into the manifest, then take away those that are no longer wanted.

        Args:
            step: Whose file it is.
            best: The step to keep whatever its age.
            facts: What must be the same where the run goes on.
        """
        path = self.path(step)
        added = Entry(path.name, step, path.stat().st_size, sha256(path))
        self._write([*(entry for entry in self.entries() if entry.step != step), added], best=best, facts=facts)

    def mark_best(self, step: int) -> None:
        """Keep another step as the best one."""
        self._write(self.entries(), best=step, facts=self.facts())

    def forget_after(self, step: int) -> None:
        """Let go of checkpoints of later steps, which were passed over as damaged: the run will write them again.

        Else they would count among the newest, and those that follow would be taken away in their place.
        """
        entries = self.entries()
        kept = [entry for entry in entries if entry.step <= step]
        if len(kept) < len(entries):
            best = self._read().get("best")
            self._write(kept, best=best if best in [entry.step for entry in kept] else None, facts=self.facts())

    def _write(self, entries: list[Entry], *, best: int | None, facts: Mapping[str, Any]) -> None:
        newest = sorted(entries, key=lambda entry: entry.step)[-self.keep :]
        kept = [*(entry for entry in entries if entry.step == best and entry not in newest), *newest]
        content = {"format": FORMAT, "best": best, "facts": facts, "checkpoints": [asdict(entry) for entry in kept]}
        write_json(self.folder / MANIFEST, content)
        self.sweep()

    def sweep(self) -> None:
        """Take away what the manifest does not name: half-written files, and checkpoints that are not kept."""
        named = {entry.file for entry in self.entries()}
        for path in self.folder.glob("*"):
            if path.name.startswith(PARTIAL) or (_NAME.fullmatch(path.name) and path.name not in named):
                path.unlink(missing_ok=True)

    def entries(self) -> list[Entry]:
        """What the manifest names; nothing where there is none.

        Raises:
            ConfigError: If it is damaged.
        """
        content = self._read()
        try:
            entries = [Entry(**entry) for entry in content["checkpoints"]] if content else []
        except (TypeError, KeyError) as error:
            raise self._damaged(error) from error
        for entry in entries:
            if not isinstance(entry.file, str) or not _NAME.fullmatch(entry.file) or not isinstance(entry.step, int):
                raise self._damaged(f"{entry.file!r} is no name of a checkpoint")
        return entries

    def facts(self) -> dict[str, Any]:
        """What was so when the checkpoints were written.

        Raises:
            ConfigError: If the manifest is damaged.
        """
        facts = self._read().get("facts", {})
        if not isinstance(facts, dict):
            raise self._damaged("`facts` is no object")
        return facts

    def newest(self) -> Entry | None:
        """The newest checkpoint that is whole; None if none was ever written.

        Raises:
            ConfigError: If there are some and all of them, or the manifest, are damaged.
        """
        entries = sorted(self.entries(), key=lambda entry: -entry.step)
        for entry in entries:
            fault = self._fault(entry)
            if fault is None:
                return entry
            log.warning("%s: %s; an older checkpoint is taken.", self.folder / entry.file, fault)
        if entries:
            raise ConfigError(f"{self.folder} holds no checkpoint that is whole: {entries[0].file} {fault}.")
        return None

    def _fault(self, entry: Entry) -> str | None:
        """What is wrong with a file."""
        path = self.folder / entry.file
        if not path.is_file():
            return "is missing"
        if path.stat().st_size != entry.size:
            return f"has {path.stat().st_size} bytes in place of {entry.size}"
        return None if sha256(path) == entry.sha256 else "has another content than was written (sha256)"

    def _read(self) -> dict[str, Any]:
        path = self.folder / MANIFEST
        if not path.is_file():
            return {}
        try:
            content = json.loads(path.read_bytes())
        except ValueError as error:
            raise self._damaged(error) from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise self._damaged(f"its format is not {FORMAT}")
        return content

    def _damaged(self, reason: object) -> ConfigError:
        return ConfigError(
            f"{self.folder / MANIFEST} is damaged: {reason}. A checkpoint may still be good: "
            f"ckpt_path={self.folder}/step-<number>.ckpt begins a new run with it."
        )
