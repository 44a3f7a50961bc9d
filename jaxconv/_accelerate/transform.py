"""`accelerate`: a function with every convolution in its jaxpr on a face of the trilinear form."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.extend.core import jaxpr_as_fun

from jaxconv._accelerate.report import Report, report_of
from jaxconv._accelerate.rewrite import Rewriter
from jaxconv._accelerate.signature import Outcome, Signature
from jaxconv.jaxprs.modules import is_module, with_state

F = TypeVar("F", bound=Callable[..., Any])

# Signatures kept per function: a static argument that never repeats must not fill the memory with programs.
_SIGNATURES = 256
_PLAIN = "__accelerated__"  # where an accelerated function keeps the one it came from


def accelerate(fn: F) -> F:
    """The same function with every convolution in its jaxpr computed by jaxconv's faces.

    A `lax.conv_general_dilated` of lhs A, rhs B and result C sums over ``b*u + lo = s*q + d*t`` (u on A, t on B, q on
    C). Whatever has unit spacing on all axes is read as the input x of a convolution, the smaller of the other two as
    its kernel w, and the rest as its output y; the equation then is the convolution (open slot y), its transpose (x)
    or its kernel gradient (w), and is computed as such. That covers forward convolutions (plain, dilated, transposed,
    grouped, any dimension numbers) and what jax's differentiation leaves behind, inside jit, scan, while, cond,
    remat, shard_map and custom derivative rules. What is not recognised stays as it is.

    Arrays among the arguments (in any pytree) are traced; everything else - Python and NumPy scalars, strings,
    functions - is static and part of the signature. `fn` is traced and compiled once per signature and abstract
    values, so the rules of `jax.jit` hold: no side effects, and what the function closes over is fixed when it is
    traced. The result can be jitted, differentiated, mapped and accelerated again.

    Before `jax.grad` it sees the primal computation (derivatives of a face are faces); around a whole training step
    it sees everything. Rules that a user gave with custom_jvp or custom_vjp stay as they are. New values of variables
    of flax NNX modules among the arguments (or of the module that `fn` is, or belongs to) are written back, as in
    `nnx.jit`; a change of a module's structure is refused.

    Args:
        fn: any function of arrays that jax can trace: a model's apply, a loss, a training step.

    Returns:
        A function with the signature of `fn`. Values are equal up to rounding.

    Raises:
        TypeError: `fn` is not callable.
        ValueError: when called, if the call changes the structure of an NNX module among its arguments.

    Example:
        >>> import jax, jax.numpy as jnp, jaxconv as jc
        >>> from jax import lax
        >>> @jc.accelerate
        ... def layer(x, w):
        ...     return lax.conv_transpose(x, w, (2, 2), "SAME")
        >>> x, w = jnp.ones((1, 4, 4, 8)), jnp.ones((3, 3, 8, 16))
        >>> layer(x, w).shape
        (1, 8, 8, 16)
        >>> step = jc.accelerate(jax.grad(lambda w, x: lax.conv_transpose(x, w, (2, 2), "SAME").sum()))
        >>> [row.face for row in jc.accelerate.report(step, w, x)]
        ['adjoint', 'kernel']

    Source: lattice form of a convolution, its transpose and its kernel gradient; Dumoulin and Visin 2016
    (arXiv:1603.07285), section 4, for the transposed case.
    """
    call, owner = _resolve(fn)
    program = _program(call)

    def accelerated(*args: Any, **kwargs: Any) -> Any:
        signature, arrays, modules = Signature.of(owner, args, kwargs)
        if signature.is_hashable():
            outcome = program(signature)(*arrays)
        else:
            outcome = _run(signature.flat(call), *arrays)
        return outcome.deliver(modules)

    # Only the names: the attributes of a callable object are not those of the function that wraps it.
    functools.update_wrapper(accelerated, fn, updated=())
    setattr(accelerated, _PLAIN, fn)
    return accelerated  # type: ignore[return-value]


def report(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Report:
    """List each convolution of ``fn(*args, **kwargs)``, what `accelerate` makes of it, and why. Nothing is computed.

    Args:
        fn: a function, accelerated or not.
        *args: its arguments; `jax.ShapeDtypeStruct` may stand for arrays.
        **kwargs: its keyword arguments.

    Returns:
        A report; print it for a table, or go through its `rows`.

    Raises:
        TypeError: `fn` is not callable.

    Example:
        >>> import jax, jaxconv as jc
        >>> x, w = jax.ShapeDtypeStruct((1, 4, 8, 8), "float32"), jax.ShapeDtypeStruct((6, 4, 3, 3), "float32")
        >>> layer = lambda x, w: jax.lax.conv(x, w, (2, 2), "SAME")
        >>> (row,) = jc.accelerate.report(layer, x, w)
        >>> row.face, row.roles, row.geometry.stride
        ('apply', 'xwy', (2, 2))
    """
    plain = getattr(fn, _PLAIN, fn)
    call, owner = _resolve(plain)
    if is_module(plain) and not kwargs:  # its layers by their paths
        pure, args = with_state(plain, args)
        return report_of(Rewriter()(jax.make_jaxpr(pure)(*args))[1])
    signature, arrays, _ = Signature.of(owner, args, kwargs)
    return report_of(Rewriter()(jax.make_jaxpr(signature.flat(call))(*arrays))[1])


accelerate.report = report  # type: ignore[attr-defined]


def _resolve(fn: Any) -> tuple[Callable[[Any, tuple, dict], Any], Any]:
    """`fn` as a function of (owner, args, kwargs); the owner is the NNX module that it is or is bound to, or None."""
    if not callable(fn):
        raise TypeError(f"accelerate needs a function, got {type(fn).__name__}")
    owner = None
    if is_module(fn):
        owner = fn

        def call(owner, args, kwargs):
            return owner(*args, **kwargs)

    elif inspect.ismethod(fn) and is_module(fn.__self__):
        owner = fn.__self__

        def call(owner, args, kwargs):
            return fn.__func__(owner, *args, **kwargs)

    else:

        def call(owner, args, kwargs):
            return fn(*args, **kwargs)

    call.__name__ = getattr(fn, "__name__", type(fn).__name__)
    return call, owner


def _program(call: Callable) -> Callable[[Signature], Callable[..., Outcome]]:
    @functools.lru_cache(maxsize=_SIGNATURES)
    def program(signature: Signature) -> Callable[..., Outcome]:
        flat = signature.flat(call)

        def run(*arrays: Any) -> Outcome:
            return _run(flat, *arrays)

        run.__name__ = run.__qualname__ = flat.__name__
        return jax.jit(run)

    return program


def _run(flat: Callable[..., Outcome], *arrays: Any) -> Outcome:
    """Trace, rewrite, and evaluate in the surrounding trace."""
    jaxpr, shape = jax.make_jaxpr(flat, return_shape=True)(*arrays)
    new, _ = Rewriter()(jaxpr)
    return jax.tree.unflatten(jax.tree.structure(shape), jaxpr_as_fun(new)(*arrays))
