"""Files that are either old or new, never half-written: everything is written beside its place and renamed."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_beside(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Writes a file through ``write(temporary_path)`` and renames it into place.

    A process that is killed in the middle leaves at most a file ``.NAME.tmp`` that the next write replaces.

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
    beside = path.with_name(f".tmp.{path.name}")
    write(beside)
    with beside.open("rb") as handle:  # the rename must not reach the disk before the content does
        os.fsync(handle.fileno())
    os.replace(beside, path)
    return path


def write_json(path: str | Path, value: Any) -> Path:
    """Writes ``value`` as indented JSON, beside and renamed."""
    text = json.dumps(value, indent=2) + "\n"
    return write_beside(path, lambda p: p.write_text(text, encoding="utf-8"))


def read_json(path: str | Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is no JSON object; the message names it.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
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
