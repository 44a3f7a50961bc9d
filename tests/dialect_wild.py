"""Hostile variants of legal calls: other ranks and types of arrays, numbers out of range, of other types or counts,
unknown names. What the peer refuses of them the dialect has to refuse, by ValueError or TypeError, and the reverse."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from dialect_harness import first

NUMBERS = (0, -1, -2, 1, 2, 3, 7, 100, 2.0, 1.5, True, "2", None, (), (1,), (2, 2), (1, 2, 3), (0,), (-1,))
FLAGS = (0, 1, -1, 2, 1.5, "yes", (1,), (), None, True, False, (2, 2))
NAMES = ("", "cubic", "SAME", "same", 0, 1, (1, 1), None)
TYPES = (np.float16, np.float32, np.int8, np.uint8, np.int32, np.int64, np.bool_, np.complex128)


def hostile(value, rng):
    """Another value in the place of `value`."""
    if isinstance(value, str):
        return (*NAMES, value.upper(), value.lower())[rng.integers(len(NAMES) + 2)]
    if value is None or isinstance(value, bool):
        return FLAGS[rng.integers(len(FLAGS))]
    if not isinstance(value, (tuple, list)):
        return NUMBERS[rng.integers(len(NUMBERS))]
    entries, form = list(value), rng.integers(5)
    if form == 0:
        entries = entries[:-1]
    elif form == 1:
        entries = [*entries, int(rng.integers(3))]
    elif form == 2:
        entries = entries * 2
    elif entries:
        at = rng.integers(len(entries))
        entries[at] = hostile(entries[at], rng)
    return entries if form == 4 else tuple(entries)


def bad_array(a, rng):
    """An array of another rank, size or type."""
    form = rng.integers(6)
    if form == 0:
        return a[None]
    if form == 1:
        return a.astype(TYPES[rng.integers(len(TYPES))])
    if not a.ndim:
        return a
    if form == 2 and a.shape[0]:
        return a[0]
    axis = int(rng.integers(a.ndim))
    positions = {
        3: range(0),
        4: range(min(1, a.shape[axis])),
        5: [*range(a.shape[axis]), *range(min(1, a.shape[axis]))],
    }
    return np.take(a, list(positions.get(form, range(1))), axis=axis) if a.shape[axis] else a


def mutate(case, rng):
    """The case with one or two of its arguments made hostile."""
    for _ in range(rng.integers(1, 3)):
        places = [("array", i) for i, a in enumerate(case.arrays) if a is not None]
        places += [("arg", i) for i in range(len(case.args))] + [("kwarg", k) for k in case.kwargs]
        kind, at = places[rng.integers(len(places))]
        if kind == "array":
            arrays = list(case.arrays)
            arrays[at] = bad_array(arrays[at], rng)
            case = dataclasses.replace(case, arrays=tuple(arrays))
        elif kind == "arg":
            args = [hostile(a, rng) if i == at else a for i, a in enumerate(case.args)]
            case = dataclasses.replace(case, args=tuple(args))
        else:
            case = dataclasses.replace(case, kwargs={**case.kwargs, at: hostile(case.kwargs[at], rng)})
    return case


def check(tally, case, ours, peer, excused=lambda case, ours, theirs: False, concrete=False):
    """Count one hostile call; both refuse, or both give the same shape.

    `excused(case, our error, the peer's error)` says which differences are the peer's and known; with `concrete` the
    dialect gets values, not only shapes.
    """
    row = tally.row(case.name)
    row["cases"] += 1
    arrays = [None if a is None else jnp.asarray(a) for a in case.arrays]
    want = got = theirs = mine = None
    try:
        want = peer(case)
    except Exception as e:  # noqa: BLE001 - peers raise many types
        theirs = e
        row["refused"] += 1
    call = lambda: ours(*arrays, *case.args, **case.kwargs)  # noqa: E731
    try:
        got = call() if concrete else jax.eval_shape(call)
    except Exception as e:  # noqa: BLE001 - the kind is what is looked at
        mine = e
    if excused(case, mine, theirs):
        return None
    if mine is not None and not isinstance(mine, (ValueError, TypeError)):
        return tally.fail(case, f"raised {type(mine).__name__}: {str(mine)[:200]}")
    if theirs is not None and mine is None:
        return tally.fail(case, f"accepted what the peer refuses ({type(theirs).__name__}: {str(theirs)[:160]})")
    if theirs is None and mine is not None:
        return tally.fail(case, f"refused what the peer takes: {mine}")
    if theirs is None and first(got).shape != np.shape(first(want)):
        return tally.fail(case, f"shape {first(got).shape}, the peer has {np.shape(first(want))}")
    return None
