"""metrics.csv: one row for each logged step, appended; a resumed run drops the rows after its checkpoint."""

import csv
import io
from pathlib import Path
from typing import Any

from jaxconv._extras import need
from jaxconv.train.files import write_beside


class MetricsLog:
    """Rows of step, the ``columns`` (empty where a step has none) and seconds of computing so far.

    Args:
        path: of the file.
        steps_done: rows of later steps, and a half-written last row, are dropped.
        columns: names of numbers, the loss first.
        tensorboard: folder for the same numbers as TensorBoard reads them, or None.
    """

    def __init__(
        self,
        path: str | Path,
        steps_done: int = 0,
        columns: tuple[str, ...] = ("loss", "train_miou", "val_miou"),
        tensorboard: Path | None = None,
    ):
        self._board: Any = None
        if tensorboard is not None:
            need("--tensorboard", "tensorboardX")
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(tensorboard), purge_step=steps_done + 1, flush_secs=5)
        self.path, self._fields = Path(path), ("step", *columns, "seconds")
        self.rows = [row for row in _read(self.path, self._fields) if int(row["step"]) <= steps_done]
        text = io.StringIO()
        writer = csv.DictWriter(text, self._fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_beside(self.path, lambda p: p.write_text(text.getvalue(), encoding="utf-8"))

    @property
    def seconds(self) -> float:
        """Computing time of the rows that are kept."""
        return float(self.rows[-1]["seconds"]) if self.rows else 0.0

    @property
    def steps(self) -> int:
        """The last step that has a row."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    def add(self, step: int, numbers: dict[str, float], seconds: float) -> None:
        """Appends a row; the first of ``numbers`` is the loss."""
        shown = {
            name: "" if n != n else f"{n:.{4 if place else 5}f}" for place, (name, n) in enumerate(numbers.items())
        }
        row = dict.fromkeys(self._fields, "") | {"step": str(step)} | shown | {"seconds": f"{seconds:.2f}"}
        with self.path.open("a", encoding="utf-8", newline="") as handle:
            csv.DictWriter(handle, self._fields, lineterminator="\n").writerow(row)
        self.rows.append(row)
        if self._board is not None:
            for name, number in numbers.items():
                self._board.add_scalar(name, number, step)

    def close(self) -> None:
        """Writes what TensorBoard has not yet been given."""
        if self._board is not None:
            self._board.close()


def _read(path: Path, fields: tuple[str, ...]) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            rows, heads = list(reader), tuple(reader.fieldnames or ())
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}; remove it to go on without its rows") from None
    if rows and heads != fields:
        raise ValueError(f"{path} has the columns {heads}, not {fields}; remove it to go on without its rows")
    return [row for row in rows if None not in row.values() and None not in row and _sound(row, fields[1])]


def _sound(row: dict[str, str], loss: str) -> bool:
    try:
        return int(row["step"]) > 0 and float(row[loss]) == float(row[loss]) and float(row["seconds"]) >= 0
    except ValueError:
        return False
