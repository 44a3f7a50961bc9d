"""What glibc does with memory that is freed; other C libraries have no such calls, and nothing happens there."""

import ctypes
import os
from collections.abc import Callable

# glibc's mallopt parameters, from malloc.h, and the variables that set the same from outside.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_CHOSEN = ("GLIBC_TUNABLES", "MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def keep_memory() -> None:
    """Let glibc keep what XLA frees, for the life of this process: each call asks for the same again.

    Otherwise large temporaries and results are mapped anew every time, and the system fills them with zeros page by
    page: almost half the time of ENet's training step on a CPU, several times that of the copy that a nearest resize
    is. Call it before the first computation. What is set in the environment stays, and other C libraries have no such
    setting.
    """
    mallopt = _of_libc("mallopt")
    if mallopt is None or any(name in os.environ for name in _CHOSEN):
        return
    for parameter, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1)):
        mallopt(parameter, value)


def trim_memory() -> None:
    """Let glibc give back what is free at this moment, as what compiling has left."""
    malloc_trim = _of_libc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _of_libc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
