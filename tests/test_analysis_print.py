"""Every result of the analysis prints on one screen."""

import jax
import jax.numpy as jnp
import pytest

import jaxconv as jc

IMAGE = jax.ShapeDtypeStruct((1, 48, 48, 1), jnp.float32)


def net(x):
    for rate in (1, 2, 4) * 10:
        x = jc.conv(x, jnp.ones((3, 3, 1, 1)) / 9, padding="SAME", dilation=rate)
    return x


def one(x):
    return jc.conv(x, jnp.ones((3, 3, 1, 1)) / 9, padding="SAME")


RESULTS = {
    "gridding": lambda: jc.analysis.gridding(net, IMAGE),
    "layer": lambda: jc.analysis.gridding(net, IMAGE).output,
    "receptive_field": lambda: jc.analysis.receptive_field(net, IMAGE),
    "check_rates": lambda: jc.analysis.check_rates((1, 2, 4) * 10),
    "effective": lambda: jc.analysis.effective_receptive_field(one, IMAGE, draws=1),
    "visualise": lambda: jc.analysis.visualise(one, jnp.ones(IMAGE.shape), unit=(0, 3, 3, 0), method="exact"),
    "patches": lambda: jc.analysis.strongest_patches(one, jnp.ones(IMAGE.shape), channel=0, count=1)[0],
    "checkerboard": lambda: jc.analysis.checkerboard(one, IMAGE),
    "tiled": lambda: jc.analysis.tiled(one, 16),
}


@pytest.mark.parametrize("result", RESULTS)
def test_results_print_on_one_screen(result):
    made = RESULTS[result]()
    for text in (str(made), repr(made)):
        lines = text.splitlines()
        assert 0 < len(lines) <= 25 and max(map(len, lines)) <= 100, text
