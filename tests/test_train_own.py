"""Trainings of one's own in the loop: the examples of the documentation, resuming, refusals."""

import importlib.util
import pathlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax")
pytest.importorskip("optax")
pytest.importorskip("orbax.checkpoint")
pytest.importorskip("skimage")
pytest.importorskip("matplotlib")
pytest.importorskip("rich")
from rich.console import Console
from safetensors.numpy import load_file

from jaxconv.train import TrainConfig, load_run, train

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "docs" / "examples"
CONFIG = TrainConfig(steps=6, batch_size=4, log_every=1, eval_every=2, checkpoint_every=2)


class Line:
    """Fits a line through points; draws a random number at each step."""

    def init(self, key):
        return {"slope": jnp.zeros(()), "seen": jnp.int32(0), "noise": jax.random.uniform(key)}

    def batch(self, start, count):
        x = np.arange(start, start + count, dtype=np.float32) % 5
        return x, 3 * x

    def step(self, state, key, x, y):
        error, gradient = jax.value_and_grad(lambda slope: ((slope * x - y) ** 2).mean())(state["slope"])
        slope = state["slope"] - 0.05 * gradient
        return {"slope": slope, "seen": state["seen"] + len(x), "noise": jax.random.uniform(key)}, {"error": error}

    def metrics(self, state):
        return {"minus_distance": -abs(float(state["slope"]) - 3)}

    def picture(self, state):
        return np.full((4, 5), 40 * state["slope"])


class Stop(Console):
    def print(self, *objects, **_):
        if objects and str(objects[0]).startswith("step 4/"):
            signal.raise_signal(signal.SIGINT)


def test_a_step_of_ones_own_is_trained_and_resumed(tmp_path):
    results = train(CONFIG, tmp_path / "whole", step=Line(), console=Console(quiet=True))
    assert results["steps"] == 6 and -0.1 < results["minus_distance"] <= 0
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {"config.json", "metrics.csv", "curves.png", "best.safetensors", "weights.safetensors", "samples"} <= names
    assert len(list((tmp_path / "whole" / "samples").iterdir())) == 3
    head = (tmp_path / "whole" / "metrics.csv").read_text().splitlines()[0]
    assert head == "step,error,minus_distance,seconds"
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, tmp_path / "parts", step=Line(), console=Stop(quiet=True))
    assert train(CONFIG, tmp_path / "parts", step=Line(), console=Console(quiet=True))["steps"] == 6
    one, other = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "parts"))
    assert one["seen"] == 24 and one == other
    with pytest.raises(ValueError, match="is a training of one's own, not a network"):
        load_run(tmp_path / "whole")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            lambda s, k, x, y: ({**s, "slope": jnp.zeros(2)}, {"e": x.sum()}),
            r"makes \(\(2,\), .* of the state's \['slop",
        ),
        (lambda s, k, x, y: ({"slope": s["slope"]}, {"e": x.sum()}), "makes None of the state's"),
        (lambda s, k, x, y: (s, {"e": x}), r"\['e'\] are no scalars"),
        (lambda s, k, x, y: (s, {}), "gives the numbers none"),
    ],
)
def test_steps_that_do_not_fit_are_refused(tmp_path, step, message):
    own = Line()
    own.step = step
    with pytest.raises(ValueError, match=message):
        train(CONFIG, tmp_path / "run", step=own, console=Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_a_step_that_leaves_the_numbers_stops(tmp_path):
    own = Line()
    own.step = lambda s, k, x, y: (s, {"e": x.sum() / 0})
    with pytest.raises(FloatingPointError, match=r"loss is not finite at step 1 \(examples 0 to 3\)"):
        train(CONFIG, tmp_path / "run", step=own, console=Console(quiet=True))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "what"), [("dcgan", "DCGAN"), ("super_resolution", "SuperResolution")])
def test_examples_of_the_documentation_train(tmp_path, name, what):
    config = TrainConfig(model=f"{EXAMPLES / name}.py:{what}", model_kwargs={}, steps=3, batch_size=4, eval_every=2)
    results = train(config, tmp_path / "run", console=Console(quiet=True))
    assert all(np.isfinite(value) for value in results.values())
    assert (tmp_path / "run" / "samples" / "000002.png").is_file()


def test_examples_score_what_they_say():
    spec = importlib.util.spec_from_file_location("sr", EXAMPLES / "super_resolution.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    image = np.zeros((20, 20))
    assert module.psnr(image + 0.1, image) == pytest.approx(20.0)
    assert module.resized(np.ones((8, 8)), (4, 6)).shape == (4, 6)
