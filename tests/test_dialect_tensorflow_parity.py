"""Every name of jaxconv.dialects.tensorflow against live TensorFlow: a slow job in an environment that has both."""

import itertools
import os

import jax
import numpy as np
import pytest
from dialect_harness import Case, Tally, cases_per_name, run_case

import jaxconv.dialects.tensorflow as dialect

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow")
pytestmark = [pytest.mark.parity, pytest.mark.slow]
SEED = 20180312

PEERS = {
    "image_resize": tf.image.resize,
    "space_to_batch": tf.space_to_batch,
    "batch_to_space": tf.batch_to_space,
}


def peer_of(name):
    return PEERS.get(name) or getattr(tf.nn, name)


def both_ways(function):
    """Eagerly, and where the CPU kernel refuses (channels first, dilated or grouped transposes) through XLA."""
    try:
        return function()
    except Exception:  # noqa: BLE001 - TensorFlow raises many types
        wrapped = tf.autograph.experimental.do_not_convert(function)
        return tf.function(wrapped, jit_compile=True, autograph=False)()


def peer(case):
    tensors = [tf.constant(a) for a in case.arrays]
    out = both_ways(lambda: peer_of(case.name)(*tensors, *case.args, **case.kwargs))
    return tuple(o.numpy() for o in out) if isinstance(out, tuple) else out.numpy()


def peer_grad(case, cotangent):
    tensors = [tf.constant(a) for a in case.arrays]

    def gradient():
        with tf.GradientTape() as tape:
            for i in case.grad:
                tape.watch(tensors[i])
            out = peer_of(case.name)(*tensors, *case.args, **case.kwargs)
            out = out[0] if isinstance(out, tuple) else out
        ct = tf.constant(np.asarray(cotangent, out.dtype.as_numpy_dtype))
        return tape.gradient(out, [tensors[i] for i in case.grad], ct)

    try:
        return [g.numpy() for g in both_ways(gradient)]
    except tf.errors.OpError:
        return None  # some CPU kernels have no gradient, with XLA neither


# ---------------------------------------------------------------------- argument sets


class Draw:
    def __init__(self, name):
        self.rng = np.random.default_rng([SEED, sum(map(ord, name))])

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def steps(self, rank, last, *choices):
        """An int, a list for the spatial axes, or one for all axes."""
        form = self.rng.integers(3)
        if form == 0:
            return self.pick(*choices)
        values = [self.pick(*choices) for _ in range(rank)]
        return values if form == 1 else self.full(values, last, 1)

    @staticmethod
    def full(values, last, fill):
        return [fill, *values, fill] if last else [fill, fill, *values]

    def normal(self, *shape):
        return self.rng.standard_normal(shape)


def layout(d, rank):
    last = d.pick(True, True, False)
    letters = {1: "W", 2: "HW", 3: "DHW"}[rank]
    return last, f"N{letters}C" if last else f"NC{letters}"


def data(d, batch, sizes, channels, last):
    return d.normal(batch, *sizes, channels) if last else d.normal(batch, channels, *sizes)


def forward_case(name):
    d = Draw(name)
    while True:
        rank = int(name[4]) if name[4:5].isdigit() else (d.pick(1, 2) if name == "convolution" else 2)
        last, fmt = (True, None) if name == "atrous_conv2d" else layout(d, rank)
        g, per = d.pick(1, 1, 2) if rank < 3 else 1, d.pick(1, 2)
        kernel, sizes = [d.pick(1, 2, 3) for _ in range(rank)], [d.pick(3, 4, 5) for _ in range(rank)]
        x = data(d, d.pick(1, 2), sizes, g * per, last)
        w = d.normal(*kernel, per, g * d.pick(1, 2))
        explicit = Draw.full([(d.pick(0, 1), d.pick(0, 2)) for _ in range(rank)], last, (0, 0))
        padding = d.pick("SAME", "VALID", *([explicit] if name in ("conv2d", "depthwise_conv2d") else []))
        stride, dilation = d.pick((d.steps(rank, last, 1, 2, 3), 1), (1, d.steps(rank, last, 1, 2)))
        if rank == 3:
            # conv3d on CPU begins at element 1, not 0, where "SAME" meets a kernel shorter than the stride by two.
            kernel = [max(k, 2) for k in kernel]
            w = d.normal(*kernel, per, g * d.pick(1, 2))
            stride, dilation = ([s] * rank if isinstance(s, int) else s for s in (stride, dilation))
            stride, dilation = (s if len(s) == 5 else Draw.full(s, last, 1) for s in (stride, dilation))
            # Its shape function reads the dilations of "NCDHW" as if they were those of "NDHWC".
            dilation = dilation if last else [1] * 5
        if name == "atrous_conv2d":
            yield Case(name, (x, w), (d.pick(1, 2, 3), padding), {}, (0, 1))
        elif name == "depthwise_conv2d":
            w = d.normal(*kernel, x.shape[3 if last else 1], d.pick(1, 2))
            s = d.pick(1, 2)
            rates = None if s > 1 else d.pick(None, [1, 2], [2, 2])
            yield Case(name, (x, w), (Draw.full([s, s], last, 1), padding, fmt, rates), {}, (0, 1))
        elif name == "convolution":
            stride, dilation = (
                v if isinstance(v, int) or len(v) == rank else (v[1:-1] if last else v[2:]) for v in (stride, dilation)
            )
            yield Case(name, (x, w), (stride, padding, fmt, dilation), {}, (0, 1))
        else:
            yield Case(name, (x, w), (stride, padding, fmt, dilation), {}, (0, 1))


def transpose_case(name):
    d = Draw(name)
    while True:
        rank = int(name[4]) if name[4].isdigit() else d.pick(1, 2)
        rank = 2 if name.startswith("atrous") else rank
        last, fmt = (True, None) if name.startswith("atrous") else layout(d, rank)
        fmt = fmt if name != "conv_transpose" or not last else d.pick(None, fmt)
        i, o = d.pick(1, 2), d.pick(1, 2)
        kernel, sizes = [d.pick(1, 2, 3) for _ in range(rank)], [d.pick(2, 3) for _ in range(rank)]
        if rank == 3:  # the gradient is conv3d on CPU, with its first element
            kernel = [max(k, 2) for k in kernel]
        padding = d.pick("SAME", "VALID")
        s, r = d.pick((d.pick(1, 2, 3), 1), (1, d.pick(1, 2))) if rank < 3 else (d.pick(1, 2, 3), 1)
        s = 1 if name.startswith("atrous") else s
        target = []
        for n, k in zip(sizes, kernel):
            low = (n - 1) * s + (1 if padding == "SAME" else r * (k - 1) + 1)
            wrong = not name.startswith("atrous") and d.pick(True, *[False] * 9)
            off = d.pick(s, -1) if wrong else d.pick(*range(s))
            target.append(max(low + off, 1))
        shape = [1, *target, o] if last else [1, o, *target]
        x, w = data(d, 1, sizes, i, last), d.normal(*kernel, o, i)
        if name.startswith("atrous"):
            yield Case(name, (x, w), (shape, r, padding), {}, (0, 1))
        else:
            yield Case(
                name,
                (x, w),
                (shape, d.pick(s, [s] * rank, Draw.full([s] * rank, last, 1)), padding, fmt, r),
                {},
                (0, 1),
            )


def block_case(name):
    d = Draw(name)
    while True:
        b, odd = d.pick(1, 2, 2, 3, 3), d.pick(0, 0, 0, 0, 1)
        if name in ("depth_to_space", "space_to_depth"):
            wide = name == "space_to_depth"
            sizes = [d.pick(1, 2) * (b if wide else 1) + odd, d.pick(1, 2) * (b if wide else 1)]
            channels = d.pick(1, 2) * (1 if wide else b * b) + (odd if not wide else 0)
            last = d.pick(True, True, False)
            x = d.normal(1, *sizes, channels) if last else d.normal(1, channels, *sizes)
            yield Case(name, (x,), (b, "NHWC" if last else "NCHW"), {}, (0,))
            continue
        rank = d.pick(1, 2, 2)
        block = [d.pick(1, 2, 3) for _ in range(rank)]
        pairs = [[d.pick(0, 1), d.pick(0, 1, 2)] for _ in range(rank)]
        if name == "space_to_batch":
            if d.pick(True, True, False):
                sizes = [max(k * d.pick(1, 2, 3) - sum(p), 1) for k, p in zip(block, pairs)]
            else:
                sizes = [d.pick(2, 3, 4) for _ in range(rank)]
            x = d.normal(d.pick(1, 2), *sizes, 2)
        else:
            x = d.normal(int(np.prod(block)) * d.pick(1, 2) + odd, *(d.pick(1, 2, 3) for _ in range(rank)), 2)
        yield Case(name, (x,), (block, pairs), {}, (0,))


def argmax_case(name):
    d = Draw(name)
    while True:
        x = d.normal(d.pick(1, 2), d.pick(3, 4, 5), d.pick(3, 4, 5), d.pick(1, 2))
        x = d.pick(x, np.round(x))
        args = d.steps(2, True, 1, 2, 3), d.steps(2, True, 1, 2, 3), d.pick("SAME", "VALID", "same")
        kwargs = {"include_batch_in_index": d.pick(True, False), "output_dtype": d.pick("int32", "int64")}
        yield Case(name, (x,), args, {k: tf.as_dtype(v) if k == "output_dtype" else v for k, v in kwargs.items()}, (0,))


def image_case(name):
    d = Draw(name)
    methods = ("bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5", "gaussian", "mitchellcubic", "linear")
    for turn in itertools.count():
        method = methods[turn % len(methods)]
        shape = (*d.pick((), (2,)), d.pick(1, 3, 4, 6), d.pick(2, 3, 5), 2)
        kwargs = {"antialias": d.pick(True, False), "preserve_aspect_ratio": d.pick(True, False, False)}
        x = d.normal(*shape).astype(np.float32)
        grad = (
            (0,) if method in ("bilinear", "nearest", "bicubic") and not kwargs["antialias"] and len(shape) == 4 else ()
        )
        yield Case(name, (x,), ([d.pick(1, 2, 3, 5, 8), d.pick(1, 4, 7)], method), kwargs, grad)


GENERATORS = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution", "atrous_conv2d", "depthwise_conv2d"), forward_case),
    **{
        f"{n}_transpose": transpose_case for n in ("conv1d", "conv2d", "conv3d", "conv", "atrous_conv2d")
    },
    **dict.fromkeys(("depth_to_space", "space_to_depth", "space_to_batch", "batch_to_space"), block_case),
    "max_pool_with_argmax": argmax_case,
    "image_resize": image_case,
}  # fmt: skip


def test_every_name_has_a_generator():
    assert set(GENERATORS) == set(dialect.__all__)


def ours(name):
    def call(*args, **kwargs):
        kwargs = {k: v.name if isinstance(v, tf.DType) else v for k, v in kwargs.items()}
        return getattr(dialect, name)(*args, **kwargs)

    return call


@pytest.mark.parametrize("name", GENERATORS)
def test_random_argument_sets(name, x64):
    tally, rng = Tally("jaxconv.dialects.tensorflow"), np.random.default_rng(SEED)
    # TensorFlow resizes in single precision.
    limits = {"value": 3e-6, "gradient": 1e-5} if name == "image_resize" else {}
    for case in itertools.islice(GENERATORS[name](name), cases_per_name(30)):
        run_case(tally, case, ours(name), peer, peer_grad, rng=rng, **limits)
    jax.clear_caches()
    tally.finish()


def test_sizes_that_come_out_empty(x64):
    """Every convolution and its transpose around size 0: the same arrays, or refused by both."""
    tally = Tally("jaxconv.dialects.tensorflow, empty")
    for (n, k, s), padding in itertools.product(
        [(0, 1, 1), (0, 3, 1), (0, 3, 2), (2, 3, 1), (1, 3, 1)], ("SAME", "VALID")
    ):
        w = np.ones((k, 1, 2, 3))
        run_case(tally, Case("conv2d", (np.ones((1, n, 4, 2)), w), (s, padding)), ours("conv2d"), peer)
        for m in (0, 1, 2):
            case = Case("conv2d_transpose", (np.ones((1, n, 4, 3)), w), ([1, m, 4 * s, 2], s, padding))
            run_case(tally, case, ours("conv2d_transpose"), peer)
    w = np.ones((3, 3, 2, 0))
    run_case(tally, Case("conv2d", (np.ones((1, 4, 4, 2)), w), (1, "SAME")), ours("conv2d"), peer)
    for name in ("space_to_batch", "batch_to_space"):
        run_case(tally, Case(name, (np.ones((2, 2)),), ([], np.zeros((0, 2), np.int32))), ours(name), peer)
    tally.finish()
