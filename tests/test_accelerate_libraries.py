"""accelerate around a training step of a U-Net as each library builds it: equal values, and the faces it took."""

import importlib

import jax
import pytest
import unets

from jaxconv._accelerate import accelerate

NEEDS = {"flax NNX": "flax", "flax linen": "flax", "equinox": "equinox", "haiku": "haiku", "Keras on JAX": "keras"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.parity if name in ("haiku", "Keras on JAX") else pytest.mark.slow)
        for name in unets.LIBRARIES
    ],
)
def test_training_step_with_its_own_gradient(name, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    try:
        importlib.import_module(NEEDS[name])
        step, arguments = unets.LIBRARIES[name]((4, 8), 1, 8)
    except ModuleNotFoundError as absent:
        pytest.skip(f"the {name} U-Net needs {NEEDS[name]}: {absent}")
    fast = accelerate(step)
    assert unets.difference(fast(*arguments), jax.jit(step)(*arguments)) < 1e-4
    report = accelerate.report(step, *arguments)
    faces = [row.face for row in report]
    assert not report.left_alone, str(report)
    # 8 convolutions: 2 blocks of 2 and one after the upsampling, the upsampling, the head. All but the first have an
    # input gradient, all have a kernel gradient.
    assert faces.count("kernel") == 8 and faces.count("apply") + faces.count("adjoint") == 8 + 7
