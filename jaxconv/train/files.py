"""Files that are either old or new, never half-written: everything is written beside its place and renamed."""

import contextlib
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def write_beside(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Writes a file through ``write(temporary_path)`` and renames it into place.

    A process that is killed in the middle leaves at most a file ``.tmp.NUMBER.NAME``: see `remove_temporaries`.

    Args:
        path: where the file shall be; missing parent folders are made.
        write: writes the whole content to the path that it is given (it has the same suffix as ``path``).

    Returns:
        ``path`` as a Path.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_beside(Path(folder) / "a.txt", lambda p: p.write_text("hello")).read_text()
    'hello'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".tmp.{secrets.token_hex(4)}.{path.name}")  # two processes may write the same file
    try:
        write(beside)
        with beside.open("rb") as handle:  # the rename must not reach the disk before the content does
            os.fsync(handle.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def remove_temporaries(folder: str | Path) -> None:
    """Removes what killed processes left of `write_beside`; call it where no other process writes."""
    for path in Path(folder).glob(".tmp.*"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Holds ``folder/.lock``, so that one process at a time works there.

    The folder is made if missing, and removed if nothing was written into it. The lock ends with the process, however
    that ends. File systems without locks are used without one.

    Raises:
        BlockingIOError: another process holds it; the message names the folder.
        FileExistsError: ``folder`` is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; choose another --out")
    try:
        import fcntl
    except ModuleNotFoundError:  # not a POSIX system
        yield
        return
    path, existed = folder / ".lock", folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        handle = path.open("w")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(handle.fileno()), path.stat()):
                break  # else its holder has just removed it
        except BlockingIOError:
            handle.close()
            raise BlockingIOError(f"{folder} is in use by another process; choose another --out, or wait") from None
        except OSError:
            break
        handle.close()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        handle.close()
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def write_json(path: str | Path, value: Any) -> Path:
    """Writes ``value`` as indented JSON, beside and renamed; numbers that are not finite, which JSON has "
    "not, as null."""
    text = json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"
    return write_beside(path, lambda p: p.write_text(text, encoding="utf-8"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: str | Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is no JSON object; the message names it.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ValueError(f"{path} is not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}, not an object")
    return value


def refuse_unknown(given: dict[str, Any], known: list[str], where: str) -> None:
    """Raises a ValueError that names each key of ``given`` that is not in ``known``.

    >>> refuse_unknown({"lr": 1}, ["learning_rate"], "the config")
    Traceback (most recent call last):
    ...
    ValueError: unknown key 'lr' in the config; known keys: learning_rate
    """
    unknown = [key for key in given if key not in known]
    if unknown:
        names = ", ".join(repr(key) for key in unknown)
        raise ValueError(f"unknown key{'s' * (len(unknown) > 1)} {names} in {where}; known keys: {', '.join(known)}")
