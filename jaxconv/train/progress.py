"""What a person sees while training, and how they stop it."""

import contextlib
import datetime
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Says whether SIGINT or SIGTERM has come, to be asked between steps; a second one acts at once.

    Outside the main thread, where Python allows no signal handlers, nothing is changed.
    """
    come: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: object) -> None:
        come.append(number)
        restore()

    def restore() -> None:
        while before:
            signal.signal(*before.popitem())

    if threading.current_thread() is threading.main_thread():
        before |= {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(come)
    finally:
        restore()


Show = Callable[[int, dict[str, float], dict[str, float]], None]


@contextlib.contextmanager
def bar(console: Console, done: int, steps: int, batch_size: int) -> Iterator[Show]:
    """A progress bar with numbers and scores, and a line for each score; without a terminal only the lines."""
    columns = [
        TextColumn("training"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[scores]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    seen: dict[str, float] = {}
    began: list[float] = []  # time and step of the first call: what is before it is compiling

    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("training", total=steps, completed=done, scores="compiling")

        def show(step: int, numbers: dict[str, float], scores: dict[str, float]) -> None:
            seen.update(scores)
            text = ", ".join(f"{_told(name)} {value:.3f}" for name, value in (numbers | seen).items())
            now = time.perf_counter()
            if began and step > began[1]:
                pace = (now - began[0]) / (step - began[1])
                left = datetime.timedelta(seconds=round(pace * (steps - step)))
                text += f", {batch_size / pace:.3g} images/s, {left} left"
            else:
                began[:] = now, step
            progress.update(task, completed=step, scores=text)
            if scores:
                progress.console.print(f"step {step}/{steps}: {text}", highlight=False, soft_wrap=True)

        yield show


def _told(name: str) -> str:
    return name.removeprefix("train_").replace("_", " ").replace("miou", "mIoU")
