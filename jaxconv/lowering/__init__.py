"""How a face of the trilinear form becomes XLA.

Every lowering offers ``apply(x, w, call)``, ``adjoint(y, w, call)`` and ``kernel(x, y, call)`` on arrays with exactly
one batch axis, where ``call`` is a [`Call`][jaxconv.lowering.Call], and says which calls it serves.
[`choose`][jaxconv.lowering.choose] picks one for a call; `window` is the reference that every other one is tested
against.
"""

from jaxconv.lowering.call import Call
from jaxconv.lowering.choice import METHODS, choose, run, serves

__all__ = ["METHODS", "Call", "choose", "run", "serves"]
