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
        numbers = (f"{loss:.5f}", f"{train_miou:.4f}", "" if val_miou is None else f"{val_miou:.4f}", f"{seconds:.2f}")
        row = dict(zip(FIELDS, (str(step), *numbers), strict=True))
        with self.path.open("a", encoding="utf-8", newline="") as handle:
            csv.DictWriter(handle, FIELDS, lineterminator="\n").writerow(row)
        self.rows.append(row)


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    return [row for row in rows if None not in row.values() and None not in row and row["step"].isdigit()]
