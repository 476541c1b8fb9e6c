"""The files of a folder that belong to a split."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path

from ftframe.errors import ConfigError, did_you_mean

NOT_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What the `datasets` library writes beside the data that it saves."""

PACKED = (".gz", ".zip", ".zst", ".bz2", ".xz", ".7z", ".tar")


def files_of_split(folder: Path, split: str, *, kinds: Mapping[str, object], label: str) -> list[Path]:
    """The data files of one split, sorted; all of them are `train` where no name speaks of a split.

    Args:
        folder: The folder; those inside of it count too.
        split: The split's name.
        kinds: What each known suffix is read by.
        label: Key and path, for messages.

    Raises:
        ConfigError: If there is no such split or data, a file belongs to no split or is packed, or files are of
            several kinds.
    """
    found = data_files(folder, kinds=kinds, label=label)
    splits = by_split(folder)
    stray = [file for file in found if not any(file in files for files in splits.values())]
    if stray:
        raise ConfigError(
            f"{label}: '{stray[0].relative_to(folder)}' belongs to none of the splits that the other files' names "
            f"speak of: {', '.join(splits)}. Move it, or give {label.partition('=')[0]} a single file."
        )
    chosen = [file for file in found if file in splits.get(split, set())]
    if not chosen:
        there = [name for name, files in splits.items() if not files.isdisjoint(found)]
        raise ConfigError(
            f"{label}: the folder has no split '{split}'.{did_you_mean(split, there)} Splits by the names of its "
            f"files: {', '.join(there)}."
        )
    return chosen


def data_files(folder: Path, *, kinds: Mapping[str, object], label: str) -> list[Path]:
    """All data files of a folder, sorted.

    Raises:
        ConfigError: If there are none, one is packed, or they are of several kinds.
    """
    inside = [path for path in sorted(folder.rglob("*")) if path.is_file() and is_data(path.relative_to(folder))]
    packed = [path for path in inside if path.suffix in PACKED]
    if packed:
        raise ConfigError(f"{label}: '{packed[0].relative_to(folder)}' is packed. Unpack it, or move it elsewhere.")
    found = [path for path in inside if path.suffix in kinds]
    if not found:
        names = ", ".join(path.name for path in inside[:5])
        raise ConfigError(
            f"{label}: the folder holds no data{f', only {names}' if names else ''}. Known kinds of files: "
            f"{', '.join(kinds)}."
        )
    first = {kinds[path.suffix]: path.relative_to(folder) for path in reversed(found)}
    if len(first) > 1:
        raise ConfigError(
            f"{label}: the folder holds files of several kinds ({', '.join(map(str, sorted(first.values())))}); all of "
            "them must be of one. Move the others elsewhere, or give a single file."
        )
    return found


def is_data(path: Path) -> bool:
    """Whether a file inside of a folder can hold rows: it is neither hidden nor about the data."""
    hidden = any(part.startswith((".", "__")) for part in path.parts)
    return not hidden and path.name not in NOT_DATA and path.stem.lower() not in ("readme", "license")


def by_split(folder: Path) -> dict[str, set[Path]]:
    """The files of each split by the rules of the `datasets` library, which reads the names of files and folders."""
    from datasets.data_files import DataFilesDict, get_data_patterns

    base = folder.resolve()
    pattern = glob.escape(str(base))  # the library takes a path for a pattern
    resolved = DataFilesDict.from_patterns(get_data_patterns(pattern), base_path=pattern)
    return {str(split): {folder / Path(file).relative_to(base) for file in files} for split, files in resolved.items()}
