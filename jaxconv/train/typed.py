"""Values that came from a file or a command line, held against the types that a dataclass declares."""

import math
import types
import typing
from typing import Any

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "True or False", dict: "a dict"}


def check_fields(record: Any) -> None:
    """Raises a ValueError that names the first field of a dataclass whose value is not of the declared type.

    Whole numbers pass for numbers, numbers that are not finite do not, and lists become tuples.

    >>> import dataclasses
    >>> @dataclasses.dataclass
    ... class Steps:
    ...     steps: int
    >>> check_fields(Steps("abc"))
    Traceback (most recent call last):
    ...
    ValueError: steps='abc' must be a whole number
    """
    for name, hint in typing.get_type_hints(type(record)).items():
        value = getattr(record, name)
        if not _fits(value, hint):
            raise ValueError(f"{name}={value!r:.200} must be {_told(hint)}")
        if isinstance(value, (list, tuple)):  # JSON has no tuples
            object.__setattr__(record, name, _tuples(value))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is types.NoneType:
        return value is None
    if origin is Any:
        return True
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        kinds = [parts[0]] * len(value) if parts[-1] is ... else parts
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if origin is dict:
        return isinstance(value, dict) and all(_fits(k, parts[0]) and _fits(v, parts[1]) for k, v in value.items())
    if origin is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin)


def _told(hint: Any) -> str:
    origin, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("None" if part is types.NoneType else _told(part) for part in parts)
    if origin is tuple:
        if parts[-1] is ...:
            return f"a list, each {_told(parts[0])}"
        return f"({', '.join(_told(part) for part in parts)})"
    if origin is dict:
        return f"a dict of {_told(parts[0])} to {_told(parts[1])}"
    return "anything" if origin is Any else _WORDS.get(origin, origin.__name__)
