"""The most memory that a call takes, as the operating system counts it."""

from __future__ import annotations

import gc
import pathlib
from collections.abc import Callable

from jaxconv._memory import trim_memory

_STATUS, _RESET = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")


def _kibibytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise KeyError(field)


def resident_bytes(call: Callable[[], object], repeats: int = 3) -> int | None:
    """How far the resident memory of this process rises during a call: results, temporaries and libraries' scratch.

    The compiler's own figure leaves out what convolution libraries allocate inside (tens of megabytes on CPUs). Free
    memory is handed back to the system first; what stays resident lowers the figure, so the largest of a few repeats
    counts. Memory on an accelerator is not resident.

    Args:
        call: what to run; it must wait for its result.
        repeats: calls.

    Returns:
        Bytes; None where the system is not Linux or does not allow it.
    """
    try:
        rises = []
        for _ in range(repeats):
            gc.collect()
            trim_memory()
            _RESET.write_text("5")  # the peak restarts at what is resident now
            before = _kibibytes("VmRSS")
            out = call()
            rises.append(_kibibytes("VmHWM") - before)
            del out
    except (OSError, KeyError):
        return None
    return 1024 * max(0, *rises)
