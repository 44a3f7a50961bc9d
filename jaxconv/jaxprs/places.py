"""Where in the user's program an equation stands."""

import re
from pathlib import Path

from jax.extend.core import JaxprEqn

_PACKAGE = str(Path(__file__).resolve().parent.parent)

_TRANSFORMED = re.compile(r"\b(?:jvp|transpose|vmap)\(([^()]*)\)")


def scope_of(eqn: JaxprEqn) -> str:
    """The named scopes of an equation without the transformations it went through: ``transpose(jvp(up))`` is "up"."""
    scope, count = str(getattr(eqn.source_info, "name_stack", "")), 1
    while count:
        scope, count = _TRANSFORMED.subn(r"\1", scope)
    return "/".join(filter(None, scope.split("/")))


def line_of(eqn: JaxprEqn) -> str:
    """The innermost line of the user's (or of a model's), not of a library's."""
    traceback = getattr(eqn.source_info, "traceback", None)
    for frame in getattr(traceback, "frames", ()):
        path = frame.file_name.replace("\\", "/")
        library = "-packages/" in path or path.startswith("<")
        own = path.startswith(_PACKAGE) and "/models/" not in path
        if not library and not own:
            return f"{path.rsplit('/', 1)[-1]}:{frame.line_num}"
    return ""


def place_of(eqn: JaxprEqn | None, outer: str = "", files: bool = True) -> str:
    """The named scopes that an equation stands in, those `outer` first, or the user's line where there are none."""
    if eqn is None:
        return outer
    named = "/".join(p for p in (outer, scope_of(eqn)) if p)
    return named if named or not files else line_of(eqn)
