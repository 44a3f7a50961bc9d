"""The faces on meshes of four devices, in a program of their own (the number of devices is set before jax starts)."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

# Slow: CI runs it on the oldest and on the newest jax.
pytestmark = pytest.mark.slow
HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def outcomes():
    env = {**os.environ, "PYTHONPATH": str(HERE.parent), "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, HERE / "sharding_checks.py"], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["devices"] == 4
    return found["results"]


def test_every_mesh_gives_the_same_values_and_gradients(outcomes):
    assert len(outcomes) >= 10
    failed = {name: who["jaxconv"] for name, who in outcomes.items() if who["jaxconv"] != "ok"}
    print(json.dumps({name: who["lax"] for name, who in outcomes.items()}, indent=1))
    assert not failed, failed
