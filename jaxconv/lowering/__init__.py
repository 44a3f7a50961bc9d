"""How a face of the trilinear form becomes XLA.

Every lowering is a module with ``apply(x, w, call)``, ``adjoint(y, w, call)`` and ``kernel(x, y, call)`` on arrays with
exactly one batch axis, where ``call`` is a [`Call`][jaxconv.lowering.Call], and ``serves(call)``, which says what it
can compute and on which platforms. [`METHODS`][jaxconv.lowering.METHODS] is their table, and
[`choose`][jaxconv.lowering.choose] picks one for a call. `lax` is the reference that every other one is tested against.
"""

from jaxconv.lowering.call import Call, Epilogue
from jaxconv.lowering.choice import FORMER_NAMES, METHODS, RULES, check, choose, named, run, run_then

__all__ = ["FORMER_NAMES", "METHODS", "RULES", "Call", "Epilogue", "check", "choose", "named", "run", "run_then"]
