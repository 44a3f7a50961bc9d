"""Run the faces on meshes of four CPU devices, ours and lax's own side by side; prints one JSON object.

A program of its own, because the number of devices must be set before jax starts: ``python tests/sharding_checks.py``.
"""

import functools
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

import jaxconv as jc  # noqa: E402

REPLICATED = P()
RNG = np.random.default_rng(0)
X, W = RNG.standard_normal((8, 8, 6, 4)), RNG.standard_normal((3, 3, 4, 6))
Y = RNG.standard_normal((8, 4, 3, 6))
PARAMS = {"stride": 2, "padding": 1}


def lax_conv(x, w):
    return lax.conv_general_dilated(x, w, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def lax_transpose(y, w):
    pads = ((1, 2), (1, 2))
    return lax.conv_general_dilated(
        y, w[::-1, ::-1], (1, 1), pads, lhs_dilation=(2, 2), dimension_numbers=("NHWC", "HWOI", "NHWC")
    )


OPS = {
    "jaxconv": (
        functools.partial(jc.conv, **PARAMS),
        functools.partial(jc.conv_transpose, **PARAMS, output_size=(8, 6)),
    ),
    "lax": (lax_conv, lax_transpose),
}


def values_and_gradients(conv, transpose):
    """All that is asked under each mesh: both operations and both gradients of each."""

    def everything(x, w, y):
        out, pull = jax.vjp(conv, x, w)
        back, pull_back = jax.vjp(transpose, y, w)
        return out, pull(y), back, pull_back(x)

    return everything


WANT = values_and_gradients(*OPS["lax"])(X, W, Y)


def agree(got):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(WANT), strict=True):
        np.testing.assert_allclose(np.asarray(g), np.asarray(w), rtol=1e-10, atol=1e-10)


def mesh_of(kind):
    return jax.make_mesh((4,), ("d",), axis_types=(kind,))


def on_mesh(ops, kind, x_spec, w_spec=REPLICATED, y_spec=None):
    mesh = mesh_of(kind)
    with jax.set_mesh(mesh):
        specs = (x_spec, w_spec, x_spec if y_spec is None else y_spec)
        arrays = [jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip((X, W, Y), specs, strict=True)]
        got = jax.jit(values_and_gradients(*ops))(*arrays)
        agree(got)
        return [str(g.sharding.spec) for g in jax.tree.leaves(got)]


def eager_explicit(ops):
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh):
        arrays = [
            jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip((X, W, Y), (P("d"), P(), P("d")), strict=True)
        ]
        agree(values_and_gradients(*ops)(*arrays))


def explicit_types(ops):
    """The result's type says how it is sharded, inside jit."""
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh):
        x, w = jax.device_put(X, NamedSharding(mesh, P("d"))), jax.device_put(W, NamedSharding(mesh, P()))
        seen = []
        jax.jit(lambda x, w: seen.append(jax.typeof(ops[0](x, w)).sharding.spec) or ops[0](x, w))(x, w)
        assert tuple(seen[0]) == ("d", None, None, None), seen


def explicit_vmap(ops):
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh):
        x = jax.device_put(X[:, None], NamedSharding(mesh, P("d")))
        w = jax.device_put(W, NamedSharding(mesh, P()))
        got = jax.jit(jax.vmap(ops[0], (0, None)))(x, w)
        np.testing.assert_allclose(np.asarray(got)[:, 0], np.asarray(WANT[0]), rtol=1e-10, atol=1e-10)


def explicit_hvp(ops):
    mesh = mesh_of(AxisType.Explicit)

    def loss(w, x):
        return jnp.sum(jnp.tanh(ops[0](x, w)))

    def hvp(w, x):
        return jax.jvp(lambda w: jax.grad(loss)(w, x), (w,), (w,))[1]

    want = hvp(W, X)
    with jax.set_mesh(mesh):
        x, w = jax.device_put(X, NamedSharding(mesh, P("d"))), jax.device_put(W, NamedSharding(mesh, P()))
        np.testing.assert_allclose(np.asarray(jax.jit(hvp)(w, x)), np.asarray(want), rtol=1e-9, atol=1e-9)


def shard_mapped(ops):
    """Batch over devices, kernel replicated, the kernel's gradient summed by shard_map's own transpose."""
    mesh = mesh_of(AxisType.Auto)

    @jax.jit
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P("d"), P(), P("d")),
        out_specs=(P("d"), (P("d"), P()), P("d"), (P("d"), P())),
    )
    def everything(x, w, y):
        return values_and_gradients(*ops)(x, w, y)

    agree(everything(X, W, Y))


def shard_mapped_gradient_outside(ops):
    mesh = mesh_of(AxisType.Auto)
    inner = jax.shard_map(ops[0], mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d"))
    out, pull = jax.vjp(jax.jit(inner), X, W)
    np.testing.assert_allclose(np.asarray(out), np.asarray(WANT[0]), rtol=1e-10, atol=1e-10)
    for got, want in zip(pull(jnp.asarray(Y)), WANT[1], strict=True):
        np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-10, atol=1e-10)


def explicit_padding_mode(ops):
    """Padding modes are slices and concatenations around the faces: they must carry the sharding too."""
    if ops is not OPS["jaxconv"]:
        raise NotImplementedError("lax has no padding modes")
    ours = [functools.partial(op, padding_mode="circular") for op in ops]
    want = values_and_gradients(*ours)(X, W, Y)
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh):
        arrays = [
            jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip((X, W, Y), (P("d"), P(), P("d")), strict=True)
        ]
        got = jax.jit(values_and_gradients(*ours))(*arrays)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(np.asarray(g), np.asarray(w), rtol=1e-10, atol=1e-10)


def explicit_padding_of_a_sharded_axis(ops):
    """Refused in a sentence, in each face and gradient: jax's own error names neither the axis nor the way out."""
    if ops is not OPS["jaxconv"]:
        raise NotImplementedError("lax has no padding modes")
    mesh = mesh_of(AxisType.Explicit)
    x = jax.device_put(np.ones((1, 8, 8, 2), np.float32), NamedSharding(mesh, P(None, "d")))
    w = jax.device_put(np.ones((3, 3, 2, 2), np.float32), NamedSharding(mesh, P()))
    for op in (jc.conv, jc.conv_transpose):
        run = functools.partial(op, padding=1, padding_mode="reflect")
        for f in (run, jax.jit(run), jax.grad(lambda x, w, run=run: run(x, w).sum())):
            try:
                with jax.set_mesh(mesh):
                    f(x, w)
            except ValueError as refusal:
                assert "Explicit mesh" in str(refusal), refusal
            else:
                raise AssertionError("it was not refused")


def explicit_resampling(ops):
    """Pooling, unpooling and resizing with the batch, an image axis or the channels sharded: value and gradient."""
    if ops is not OPS["jaxconv"]:
        raise NotImplementedError("lax has no unpooling")
    pooled, scattered = (jnp.asarray(X[:, ::2, ::2]), jnp.asarray(RNG.integers(0, 48, (8, 4, 3, 4))))
    _, overlapping = jc.max_pool(X, 3, stride=2, padding=1, return_indices=True)
    calls = [(functools.partial(jc.max_pool, window=2), X)]
    calls += [
        (functools.partial(jc.resize, size=(16, size), method=method), X)
        for method, size in (("linear", 9), ("cubic", 12), ("nearest", 12))
    ]
    calls += [
        (functools.partial(lambda y, at: jc.max_unpool(y, at.astype(jnp.int32), (8, 6)), at=at), pooled)
        for at in (scattered, overlapping)
    ]

    def both(f, x):
        y, pull = jax.vjp(f, x)
        return y, pull(jnp.cos(y))[0]

    for f, x in calls:
        want = both(f, x)
        for devices, spec in ((4, P("d")), (2, P(None, "d")), (4, P(None, None, None, "d"))):
            mesh = jax.make_mesh((devices,), ("d",), axis_types=(AxisType.Explicit,))
            with jax.set_mesh(mesh):
                sharded = jax.device_put(x, NamedSharding(mesh, spec))
                for g in (functools.partial(both, f), jax.jit(functools.partial(both, f))):
                    for got, one in zip(g(sharded), want, strict=True):
                        assert tuple(got.sharding.spec)[: len(spec)] == tuple(spec), (f, spec, got.sharding.spec)
                        np.testing.assert_allclose(np.asarray(got), np.asarray(one), rtol=1e-10, atol=1e-10)
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh):  # indices sharded unlike the values, and both mapped over another axis
        y = jax.device_put(pooled, NamedSharding(mesh, P("d")))
        at = jax.device_put(overlapping, NamedSharding(mesh, P(None, None, None, "d")))
        unpool = jax.jit(lambda y, at: jc.max_unpool(y, at, (8, 6)))
        want = unpool(pooled, overlapping)
        np.testing.assert_array_equal(np.asarray(unpool(y, at)), np.asarray(want))
        got = jax.vmap(unpool)(jnp.stack([y, 2 * y]), jnp.stack([at, at]))
        np.testing.assert_array_equal(np.asarray(got), np.stack([want, 2 * want]))


def explicit_windows(ops):
    """Windows, columns and shuffles whose parts do not fit the mesh, along an image axis or the channels."""
    if ops is not OPS["jaxconv"]:
        raise NotImplementedError("lax has no shuffles")

    def everything(x):
        return (
            jc.pixel_shuffle(x, 2, order="DCR"),
            jc.pixel_unshuffle(x, (4, 3), order="DCR"),
            jc.pixel_unshuffle(x, (4, 3)),
            jc.unfold(x, 3, padding=1),
            jc.fold(x, (9, 7), 2),
            jc.max_pool(x, 3, stride=2, padding=1, return_indices=True)[0],
            jc.avg_pool(x, 3, stride=2, padding=1),
        )

    def both(x):
        outputs, pull = jax.vjp(everything, x)
        return outputs, pull(jax.tree.map(jnp.cos, outputs))

    want = both(X)
    for spec in (P("d"), P(None, "d"), P(None, None, None, "d")):
        mesh = mesh_of(AxisType.Explicit)
        with jax.set_mesh(mesh):
            got = jax.jit(both)(jax.device_put(X, NamedSharding(mesh, spec)))
        assert tuple(got[1][0].sharding.spec)[: len(spec)] == tuple(spec), (spec, got[1][0].sharding.spec)
        for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(np.asarray(g), np.asarray(w), rtol=1e-10, atol=1e-10)


def explicit_unpool_vmap(ops):
    """Indices mapped over a sharded axis, which their types then do not show."""
    if ops is not OPS["jaxconv"]:
        raise NotImplementedError("lax has no unpooling")
    pooled, at = jc.max_pool(X, 3, stride=2, padding=1, return_indices=True)
    scaled, indices = jnp.stack([pooled * n for n in range(4)]), jnp.stack([at] * 4)

    def both(y, at):
        x, pull = jax.vjp(lambda y: jc.max_unpool(y, at, (8, 6)), y)
        return x, pull(jnp.cos(x))[0]

    mesh = mesh_of(AxisType.Explicit)
    for axes in ((0, 0), (0, None), (None, 0)):
        arrays = [a if axis is None else b for axis, a, b in zip(axes, (pooled, at), (scaled, indices), strict=True)]
        want = jax.vmap(both, axes)(*arrays)
        with jax.set_mesh(mesh):
            specs = [P() if axis is None else P("d") for axis in axes]
            sharded = [jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip(arrays, specs, strict=True)]
            got = jax.jit(jax.vmap(both, axes))(*sharded)
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(np.asarray(g), np.asarray(w), rtol=1e-10, atol=1e-10)


def shard_mapped_on_explicit(ops):
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh):
        arrays = [
            jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip((X, W, Y), (P("d"), P(), P("d")), strict=True)
        ]
        inner = jax.shard_map(ops[0], in_specs=(P("d"), P()), out_specs=P("d"))
        out, pull = jax.vjp(jax.jit(inner), *arrays[:2])
        for got, want in zip((out, *pull(arrays[2])), (WANT[0], *WANT[1]), strict=True):
            np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-10, atol=1e-10)


def nothing_moves(ops):
    """With the batch sharded no operation between convolutions, nor its gradient, needs anything of another device."""
    if ops is not OPS["jaxconv"]:
        raise NotImplementedError("lax has no unpooling")
    x, columns = jnp.asarray(X, jnp.float32), jnp.ones((8, 8, 6, 36), jnp.float32)
    pooled, at = jc.max_pool(x, 2, return_indices=True)
    kernel = jnp.ones((3, 3, 2, 4), jnp.float32)
    merged = functools.partial(jc.conv, w=kernel, padding=1, groups=2, method="blocks")
    calls = [
        (merged, x),
        (lambda y, at=at: jc.max_unpool(y, at, (8, 6)), pooled),
        (lambda c: jc.fold(c, (8, 6), 3, padding=1), columns),
        (lambda x: jc.resize(x, (16, 12)), x),
        (lambda x: jc.conv(x, kernel, padding=1, groups=2), x),
    ]
    sharding = NamedSharding(mesh_of(AxisType.Auto), P("d"))

    def both(f, a, at):
        y, pull = jax.vjp(f if at is None else functools.partial(f, at=at), a)
        return y, pull(jnp.cos(y))[0]

    for f, a in calls:
        indices = at if a is pooled else None
        arrays = [None if v is None else jax.device_put(v, sharding) for v in (a, indices)]
        text = jax.jit(functools.partial(both, f)).lower(*arrays).compile().as_text()
        moved = [
            name for name in ("all-gather", "all-to-all", "collective-permute", "all-reduce") if f" {name}(" in text
        ]
        assert set(moved) <= {"all-reduce"}, (f, moved)
        # Whether the indices of all devices are near, and whether their merged groups are finite: one bool.
        assert all("pred[" in line for line in text.splitlines() if " all-reduce(" in line), f
    y = jax.jit(merged)(jax.device_put(x.at[1, 4, 4, 0].set(jnp.nan), sharding))
    assert sorted(set(np.argwhere(np.isnan(np.asarray(y)))[:, 3].tolist())) == [0, 1]


CHECKS = {
    "Auto mesh, batch sharded, nothing moves": nothing_moves,
    "Auto mesh, batch sharded": lambda ops: on_mesh(ops, AxisType.Auto, P("d")),
    "Auto mesh, height sharded": lambda ops: on_mesh(ops, AxisType.Auto, P(None, "d")),
    "Auto mesh, output channels sharded": lambda ops: on_mesh(ops, AxisType.Auto, P(), P(None, None, "d", None)),
    "Explicit mesh, batch sharded, jit": lambda ops: on_mesh(ops, AxisType.Explicit, P("d")),
    "Explicit mesh, batch sharded, eager": eager_explicit,
    "Explicit mesh, the result's type": explicit_types,
    "Explicit mesh, vmap over the sharded axis": explicit_vmap,
    "Explicit mesh, forward over reverse": explicit_hvp,
    "Explicit mesh, kernel's input channels sharded with x's": lambda ops: on_mesh(
        ops, AxisType.Explicit, P(None, None, None, "d"), P(None, None, "d", None), P()
    ),
    "Explicit mesh, circular padding": explicit_padding_mode,
    "Explicit mesh, padding modes of a sharded axis": explicit_padding_of_a_sharded_axis,
    "Explicit mesh, pooling and resampling": explicit_resampling,
    "Explicit mesh, windows that do not fit it": explicit_windows,
    "Explicit mesh, unpooling mapped over the sharded axis": explicit_unpool_vmap,
    "shard_map on an Explicit mesh": shard_mapped_on_explicit,
    "shard_map, gradients inside": shard_mapped,
    "shard_map, gradients outside": shard_mapped_gradient_outside,
}


def main():
    results = {}
    for name, check in CHECKS.items():
        for who, ops in OPS.items():
            try:
                check(ops)
                outcome = "ok"
            except Exception as error:  # what a peer raises is the finding
                outcome = f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"
            results.setdefault(name, {})[who] = outcome
    print(json.dumps({"jax": jax.__version__, "devices": jax.device_count(), "results": results}, indent=1))


if __name__ == "__main__":
    main()
