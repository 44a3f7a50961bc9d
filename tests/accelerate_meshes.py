"""Run accelerated functions on meshes of four CPU devices beside the plain ones; prints one JSON object.

A program of its own, because the number of devices must be set before jax starts: run it as a script.
"""

import json

import jax

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax import lax  # noqa: E402
from jax.sharding import (  # noqa: E402
    AxisType,
    NamedSharding,
    PartitionSpec as P,  # noqa: E402
)

from jaxconv._accelerate import accelerate  # noqa: E402

RNG = np.random.default_rng(0)
X, W = RNG.standard_normal((8, 3, 8, 4)), RNG.standard_normal((6, 3, 3, 3))
NUMBERS = ("NCHW", "OIHW", "NCHW")


def loss(w, x):
    """Channels first, strided, then transposed with the same kernel."""
    y = lax.conv_general_dilated(x, w, (2, 2), ((1, 1), (1, 1)), dimension_numbers=NUMBERS)
    pads = ((1, 2), (1, 2))
    back = lax.conv_general_dilated(
        jnp.tanh(y), w, (1, 1), pads, lhs_dilation=(2, 2), dimension_numbers=("NCHW", "IOHW", "NCHW")
    )
    return jnp.sum(back**2) / back.size


def grouped(w, x):
    y = lax.conv_general_dilated(
        x, w[:, :1], (1, 1), "SAME", rhs_dilation=(2, 2), dimension_numbers=NUMBERS, feature_group_count=3
    )
    return jnp.sum(jnp.tanh(y) ** 2)


def error(got, want):
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max()) for a, b in pairs)


def compare(fn, w, x):
    """Largest error of the gradient accelerated and of the accelerated function, and what was left alone."""
    plain = jax.value_and_grad(fn, (0, 1))
    want = jax.jit(plain)(np.asarray(w), np.asarray(x))
    inside, outside = accelerate(plain), jax.jit(jax.value_and_grad(accelerate(fn), (0, 1)))
    left = [row.reason for row in accelerate.report(plain, w, x).left_alone]
    specs = [str(jax.typeof(g)) for g in inside(w, x)[1]]
    wanted = [str(jax.typeof(g)) for g in jax.jit(plain)(w, x)[1]]
    return {
        "error": max(error(inside(w, x), want), error(outside(w, x), want)),
        "left": left,
        "types": specs == wanted or [specs, wanted],
    }


def on_mesh(fn, axis_types, spec, names=("d",), sizes=(4,)):
    mesh = jax.make_mesh(sizes, names, axis_types=(axis_types,) * len(sizes))
    with jax.set_mesh(mesh):
        x = jax.device_put(X, NamedSharding(mesh, spec))
        w = jax.device_put(W, NamedSharding(mesh, P()))
        return compare(fn, w, x)


def mapped(fn, **options):
    """The loss of each device's share of the batch, with the gradient taken inside and summed over devices."""
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))

    def local(w, x):
        value, grad = jax.value_and_grad(fn)(w, x)
        return lax.pmean(value, "d"), lax.pmean(grad, "d")

    sharded = jax.shard_map(local, mesh=mesh, in_specs=(P(), P("d")), out_specs=P(), **options)
    want = jax.jit(sharded)(W, X)
    report = accelerate.report(sharded, W, X)
    inner = jax.shard_map(accelerate(local), mesh=mesh, in_specs=(P(), P("d")), out_specs=P(), **options)
    return {
        "error": max(error(accelerate(sharded)(W, X), want), error(jax.jit(inner)(W, X), want)),
        "left": [row.reason for row in report.left_alone],
        "types": "shard_map" in report.rows[0].path,
    }


def with_out_sharding():
    """A result that the equation itself asks to be laid out in another way."""
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x, w = jax.device_put(X, NamedSharding(mesh, P("d"))), jax.device_put(W, NamedSharding(mesh, P()))

        def fn(x, w):
            return lax.conv_general_dilated(
                x, w, (1, 1), "SAME", dimension_numbers=NUMBERS, out_sharding=P(None, None, "d")
            )

        got, want = accelerate(fn)(x, w), jax.jit(fn)(x, w)
        return {
            "error": error(got, want),
            "left": [row.reason for row in accelerate.report(fn, x, w).left_alone],
            "types": jax.typeof(got) == jax.typeof(want),
        }


CASES = {
    "Explicit, out_sharding": with_out_sharding,
    "Explicit, batch": lambda: on_mesh(loss, AxisType.Explicit, P("d")),
    "Explicit, batch, grouped": lambda: on_mesh(grouped, AxisType.Explicit, P("d")),
    "Auto, batch": lambda: on_mesh(loss, AxisType.Auto, P("d")),
    "Auto, spatial": lambda: on_mesh(loss, AxisType.Auto, P("d", None, "s"), ("d", "s"), (2, 2)),
    "shard_map": lambda: mapped(loss),
    "shard_map, grouped": lambda: mapped(grouped),
    "shard_map, unchecked": lambda: mapped(loss, check_vma=False),
}

if __name__ == "__main__":
    print(json.dumps({name: case() for name, case in CASES.items()}))
