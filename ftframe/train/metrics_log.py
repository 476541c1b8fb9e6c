"""`metrics.csv`: what was logged, row by row, and no row twice when a run is resumed."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from ftframe.durable_files import write_text

NAME = "metrics.csv"


class MetricsLog(Logger):
    """Writes each row at once, and takes back rows that a resumed run will write again.

    Lightning's own CSVLogger deletes the file of the run that it is to go on with.
    """

    def __init__(self, save_dir: str) -> None:
        """Name the folder; the file is opened with the first row.

        Args:
            save_dir: Where `metrics.csv` goes.
        """
        super().__init__()
        self._path = Path(save_dir) / NAME
        self._columns: list[str] = []
        self._rows: list[dict[str, Any]] = []

    @property
    def name(self) -> str:
        """Of the file."""
        return NAME

    @property
    def version(self) -> str:
        """None: a run has one."""
        return ""

    @property
    def save_dir(self) -> str:
        """Where the file is."""
        return str(self._path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: `config.yaml` has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row; a new column is added to the rows before, too."""
        row = {**metrics, "step": step}
        self._rows.append(row)
        if not set(row) <= set(self._columns) or not self._path.is_file():
            self._write_all()
            return
        with self._path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def state_dict(self) -> dict[str, int]:
        """How many rows there are."""
        return {"rows": len(self._rows)}

    @rank_zero_only
    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on behind that many rows of the file that is there; later ones will be written again."""
        if not self._path.is_file():
            return
        with self._path.open(encoding="utf-8", newline="") as file:
            self._rows = list(csv.DictReader(file))[: state["rows"]]
        self._columns = []
        self._write_all()

    def _write_all(self) -> None:
        self._columns = sorted({name for row in self._rows for name in row})
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(self._rows)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._path, text.getvalue())
