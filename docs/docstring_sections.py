"""A griffe extension: docstrings here say ``Example:``, the parser of Google style knows ``Examples:`` only."""

import re
from typing import Any

import griffe


class DocstringSections(griffe.Extension):
    """Rename the heading of the section with the running example, so that it is shown as code."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for every object that has been collected."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
