"""A griffe extension: the running examples of docstrings become the section that is shown as code.

The parser of Google style knows the heading ``Examples:`` with indented lines below it. Docstrings here say
``Example:``, or let the example stand by itself, where Markdown would take ``>>>`` for three block quotes.
"""

import re
from typing import Any

import griffe


class DocstringSections(griffe.Extension):
    """Give every running example of a docstring its heading."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for every object that has been collected."""
        if obj.docstring is not None:
            obj.docstring.value = with_headings(obj.docstring.value)


def with_headings(text: str) -> str:
    """The docstring with ``Examples:`` above each example; an example ends at the blank line before other text."""
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    blocks = re.split(r"\n[ \t]*\n", text)
    made: list[str] = []
    inside = False
    for block in blocks:
        bare = block.startswith(">>>")
        if bare:
            block = "\n".join(f"    {line}" for line in block.splitlines())
        made.append(f"Examples:\n{block}" if bare and not inside else block)
        inside = bare
    return "\n\n".join(made)
