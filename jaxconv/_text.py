"""What is shown as text: names that came out of files made harmless, one function for each place; results in brief."""

import dataclasses
import textwrap
from typing import Any


def printable(text: str) -> str:
    r"""Text for a terminal: what would move the cursor, change colours or turn the direction of writing is spelled out.

    >>> printable("weight\x1b[31m\x07"), printable("two\nlines")
    ('weight\\x1b[31m\\x07', 'two\nlines')
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def unparsed(text: str) -> str:
    r"""Text for matplotlib, which reads what stands between dollars as mathematics.

    >>> print(unparsed("a$b$\x00"))
    a\$b\$\x00
    """
    return printable(text).replace("\n", " ").replace("$", r"\$")


def place_and_whole(rank: int) -> tuple[str, str]:
    """What one place of an input over so many axes is called, and what the whole.

    Example:
        >>> place_and_whole(1), place_and_whole(3)
        (('position', 'signal'), ('voxel', 'volume'))
    """
    return {1: ("position", "signal"), 2: ("pixel", "image"), 3: ("voxel", "volume")}.get(rank, ("position", "input"))


def print_line(text: str) -> None:
    """`print` of `printable` text."""
    print(printable(text))


def brief(self: Any) -> str:
    """The `__repr__` of results that hold arrays and long lists: those by their shape and length, on a few lines.

    Example:
        >>> from dataclasses import make_dataclass
        >>> Result = make_dataclass("Result", ["sizes", "values"], namespace={"__repr__": brief})
        >>> Result((3, 3), ["a"] * 99)
        Result(sizes=(3, 3), values=<99 of str>)
    """
    parts = [f"{field.name}={_short(getattr(self, field.name))}" for field in dataclasses.fields(self)]
    return "\n".join(textwrap.wrap(f"{type(self).__name__}({', '.join(parts)})", 98, subsequent_indent="    "))


def _short(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"<{value.dtype}{list(value.shape)}>"
    said = repr(value)
    if isinstance(value, tuple | list) and len(said) > 80:
        return f"<{len(value)} of {type(value[0]).__name__}>"
    return said if len(said) <= 160 else said[:150] + " ..."
