"""Names that came out of files, made harmless where they are shown: one function for each place."""


def printable(text: str) -> str:
    r"""Text for a terminal: what would move the cursor, change colours or turn the direction of writing is spelled out.

    >>> printable("weight\x1b[31m\x07"), printable("two\nlines")
    ('weight\\x1b[31m\\x07', 'two\nlines')
    """
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def unparsed(text: str) -> str:
    r"""Text for matplotlib, which reads what stands between dollars as mathematics.

    >>> print(unparsed("a$b$\x00"))
    a\$b\$\x00
    """
    return printable(text).replace("\n", " ").replace("$", r"\$")


def print_line(text: str) -> None:
    """`print` of `printable` text."""
    print(printable(text))
