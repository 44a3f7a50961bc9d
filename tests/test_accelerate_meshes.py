"""Accelerated functions on meshes of four devices, in a program of their own (the number is set before jax starts)."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent


@pytest.mark.slow
def test_values_gradients_and_types_on_meshes():
    env = {**os.environ, "PYTHONPATH": str(HERE.parent), "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, HERE / "accelerate_meshes.py"], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr
    cases = json.loads(run.stdout)
    assert len(cases) == 8
    for name, found in cases.items():
        assert found["error"] < 1e-12, (name, found)
        assert found["left"] == [], (name, found)
        assert found["types"] is True, (name, found)
