"""metrics.csv: one row for each logged step, appended; a resumed run drops the rows after its checkpoint."""

import csv
import io
from pathlib import Path

from jaxconv.train.files import write_beside

FIELDS = ("step", "loss", "train_miou", "val_miou", "seconds")


class MetricsLog:
    """Rows of step, loss, train mIoU, val mIoU (empty between scores) and seconds of computing so far.

    Args:
        path: of the file.
        steps_done: rows of later steps, and a half-written last row, are dropped.
    """

    def __init__(self, path: str | Path, steps_done: int = 0):
        self.path = Path(path)
        self.rows = [row for row in _read(self.path) if int(row["step"]) <= steps_done]
        text = io.StringIO()
        writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_beside(self.path, lambda p: p.write_text(text.getvalue(), encoding="utf-8"))

    @property
    def seconds(self) -> float:
        """Computing time of the rows that are kept."""
        return float(self.rows[-1]["seconds"]) if self.rows else 0.0

    def add(self, step: int, loss: float, train_miou: float, val_miou: float | None, seconds: float) -> None:
        """Appends a row."""
        scores = ("" if score is None or score != score else f"{score:.4f}" for score in (train_miou, val_miou))
        numbers = (f"{loss:.5f}", *scores, f"{seconds:.2f}")
        row = dict(zip(FIELDS, (str(step), *numbers), strict=True))
        with self.path.open("a", encoding="utf-8", newline="") as handle:
            csv.DictWriter(handle, FIELDS, lineterminator="\n").writerow(row)
        self.rows.append(row)


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            rows, heads = list(reader), tuple(reader.fieldnames or ())
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}; remove it to go on without its rows") from None
    if rows and heads != FIELDS:
        raise ValueError(f"{path} has the columns {heads}, not {FIELDS}; remove it to go on without its rows")
    return [row for row in rows if None not in row.values() and None not in row and _sound(row)]


def _sound(row: dict[str, str]) -> bool:
    try:
        return int(row["step"]) > 0 and float(row["loss"]) == float(row["loss"]) and float(row["seconds"]) >= 0
    except ValueError:
        return False
