"""The choice of a lowering: pure, bounded in what it unrolls, its own for each platform, and never a change of
values."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from cases import Case
from test_core_faces import error

import jaxconv as jc
from jaxconv import lowering
from jaxconv.benchmark import REAL, explain, random_layers
from jaxconv.geometry import ConvGeometry
from jaxconv.lowering import Call, choose, taps

F32 = np.dtype("float32")
PLATFORMS = ("cpu", "cuda", "rocm", "tpu", None)


def call_of(layer, face, platform):
    i, o = layer.conv_channels
    return Call(face, layer.geometry, layer.batch, i, o, F32, F32, None, platform)


LAYERS = (*REAL, *random_layers(40, seed=5))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_layer_gets_a_lowering_that_serves_it(platform):
    for layer in LAYERS:
        for face in ("apply", "adjoint", "kernel"):
            call = call_of(layer, face, platform)
            name = choose(call)
            assert lowering.serves(name, face, layer.geometry, *layer.conv_channels), (layer, face, name)
            assert choose(dataclasses.replace(call)) == name


def test_platforms_that_were_not_measured_take_the_native_form():
    assert {choose(call_of(layer, face, "tpu")) for layer in LAYERS for face in ("apply", "adjoint", "kernel")} == {
        "window"
    }


def test_one_exported_program_is_lowered_for_each_platform():
    """Depthwise: sums over taps on the CPU, XLA's own convolution where nothing was measured."""
    x, w = jnp.ones((1, 16, 16, 64)), jnp.ones((3, 3, 1, 64))
    f = jax.jit(functools.partial(jc.conv, padding=1, groups=64))
    geometry = ConvGeometry.resolve(input_size=(16, 16), kernel_size=(3, 3), padding=1, groups=64)
    assert choose(Call("apply", geometry, 1, 64, 64, F32, F32, None, "cpu")) == "taps"
    has = {
        platform: "stablehlo.convolution" in jax.export.export(f, platforms=[platform])(x, w).mlir_module()
        for platform in ("cpu", "tpu")
    }
    assert has == {"cpu": False, "tpu": True}


def test_a_large_kernel_is_not_unrolled():
    """A 64x64 kernel must not become 4,096 taps, in any face: compile time is a cost."""
    y, w = jnp.ones((1, 4, 4, 3)), jnp.ones((64, 64, 3, 3))

    def everything(y, w):
        x, pull = jax.vjp(lambda y, w: jc.conv_transpose(y, w, stride=32, padding=16), y, w)
        return x, pull(x)

    text = jax.jit(everything).lower(y, w).as_text()
    assert len(text.splitlines()) < 300
    big = ConvGeometry.resolve(input_size=(80, 80), kernel_size=(64, 64))
    assert not taps.serves("apply", big, 3, 3)


@pytest.mark.parametrize("method", [m for m in lowering.METHODS if m not in ("window", "native")])
def test_a_forced_method_carries_over_to_derivatives_where_it_serves(method, x64):
    case = {
        "taps": Case((6, 5), (3, 2), (2, 1), (1, 1), ((1, 1), (0, 1))),
        "patches": Case((6, 5), (3, 2), (2, 1), (1, 1), ((1, 1), (0, 1))),
        "phases": Case((6, 5), (3, 2), (2, 1), (1, 1), ((1, 1), (0, 1))),
        "space_to_batch": Case((6, 5), (3, 2), (1, 1), (2, 3), ((1, 1), (2, 1))),
        "blocks": Case((6, 5), (3, 2), (2, 1), (1, 1), ((1, 1), (0, 1)), groups=2, channels=(2, 2)),
    }[method]
    x, w, y = case.arrays()
    out, pull = jax.vjp(lambda x, w: jc.conv(x, w, **case.params, method=method), x, w)
    assert error(out, reference.conv(x, w, case.record, case.groups)) <= 1e-12
    dx, dw = pull(jnp.asarray(y))
    assert error(dx, reference.conv_transpose(y, w, case.record, case.groups)) <= 1e-12
    assert error(dw, reference.conv_kernel(x, y, case.record, case.groups)) <= 1e-12


def test_explain_says_what_is_chosen_and_why():
    said = explain("MobileNet depthwise")
    assert len(re.findall(r"^MobileNet", said, re.M)) == 2
    assert re.search(r"apply +(taps|native) .*expected", said)
    with pytest.raises(ValueError, match="DCGAN"):
        explain("no such layer")


@pytest.mark.parametrize("layer", [layer for layer in random_layers(6, seed=9)], ids=lambda layer: layer.name)
def test_the_chosen_lowering_agrees_with_the_reference_lowering(layer):
    """At sizes of real layers, where the model chooses otherwise than in the tiny geometries of the other tests."""
    rng = np.random.default_rng(0)
    arrays = {k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in layer.shapes.items()}
    for face, (a, b) in {"apply": ("x", "w"), "adjoint": ("y", "w"), "kernel": ("x", "y")}.items():
        call = dataclasses.replace(call_of(layer, face, "cpu"))
        auto, native = (
            jax.jit(functools.partial(lowering.run, m, call))(arrays[a], arrays[b]) for m in ("auto", "window")
        )
        assert error(auto, np.asarray(native)) <= 1e-4, (face, choose(call))
