"""What a person sees while training, and how they stop it."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Interrupt:
    """Turns the first SIGINT or SIGTERM into a flag that is looked at between steps; a second one acts at once.

    Outside the main thread, where Python allows no signal handlers, nothing is changed.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._request) for number in self._SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _request(self, number: int, frame: object) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


Show = Callable[[int, float, float, float | None, bool], None]


@contextlib.contextmanager
def bar(console: Console, done: int, steps: int) -> Iterator[Show]:
    """A progress bar with loss and mIoU, and a line for each score; without a terminal only the lines."""
    columns = [
        TextColumn("training"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[scores]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("training", total=steps, completed=done, scores="compiling")

        def show(step: int, loss: float, train_miou: float, val_miou: float | None, scored: bool) -> None:
            validated = "" if val_miou is None else f", val mIoU {val_miou:.3f}"
            text = f"loss {loss:.3f}, mIoU {train_miou:.3f}{validated}"
            progress.update(task, completed=step, scores=text)
            if scored:
                progress.console.print(f"step {step}/{steps}: {text}", highlight=False, soft_wrap=True)

        yield show
