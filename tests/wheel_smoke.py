"""What an installed wheel has to do: `python -I tests/wheel_smoke.py STATUS`, where jaxconv.native.status begins so."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from jaxconv import native

status = native.status()
print(f"{jc.__path__[0]} with jax {jax.__version__}: {status}")
assert status.startswith(sys.argv[1])
rng = np.random.default_rng(0)
x, w = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((2, 17, 19, 12), (3, 3, 12, 12)))
for name, arguments in (("conv", {"dilation": 2, "padding": 2}), ("conv_transpose", {"stride": 2})):
    f = functools.partial(getattr(jc, name), **arguments)
    results = []
    for method in ("auto", "lax"):
        y, pull = jax.vjp(functools.partial(f, method=method), x, w)
        results.append([y, *pull(jnp.cos(y))])
    called = "jaxconv_" in jax.jit(f).lower(x, w).as_text()
    worst = max(float(abs(a - b).max() / abs(b).max()) for a, b in zip(*results))
    print(f"{name}: {'kernels' if called else 'lax'}, value and gradients within {worst:.1e} of lax's")
    assert called == (status == "ready") and worst < 1e-5
