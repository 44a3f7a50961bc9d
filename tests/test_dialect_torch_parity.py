"""Every name of jaxconv.dialects.torch against live PyTorch: random argument sets, PyTorch's own samples, and its
refusals."""

import itertools
import os
import warnings

import jax
import numpy as np
import pytest
from dialect_harness import Case, Tally, by_the_hundred, cases_per_name, run_case

import jaxconv.dialects.torch as dialect

torch = pytest.importorskip("torch")
F = torch.nn.functional
pytestmark = pytest.mark.parity
SEED = 20180312


def tensor(a, grad=False):
    t = None if a is None else torch.from_numpy(np.array(a))
    return t.requires_grad_() if grad and t is not None else t


def peer_call(case, tensors):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(F, case.name)(*tensors, *case.args, **case.kwargs)


def peer(case):
    out = peer_call(case, [tensor(a) for a in case.arrays])
    return tuple(o.numpy() for o in out) if isinstance(out, tuple) else out.numpy()


def peer_grad(case, cotangent):
    tensors = [tensor(a, i in case.grad) for i, a in enumerate(case.arrays)]
    out = peer_call(case, tensors)
    out = out[0] if isinstance(out, tuple) else out
    out.backward(torch.from_numpy(np.array(cotangent)).to(out.dtype).reshape(out.shape))
    return [tensors[i].grad.numpy() for i in case.grad]


# ---------------------------------------------------------------------- argument sets


class Draw:
    def __init__(self, name):
        self.rng = np.random.default_rng([SEED, sum(map(ord, name))])
        self.name = name

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def ints(self, rank, *choices):
        """An int, a tuple, or a tuple of one."""
        form = self.rng.integers(4)
        if form == 0:
            return self.pick(*choices)
        values = tuple(self.pick(*choices) for _ in range(rank))
        return values if form < 3 or rank == 1 else values[:1]

    def normal(self, *shape):
        return self.rng.standard_normal(shape)

    def lead(self):
        return self.pick((), (1,), (2,))


def conv_case(name):
    rank, d = int(name[-2]), Draw(name)
    while True:
        g = d.pick(1, 1, 2)
        i, o = g * d.pick(1, 2), g * d.pick(1, 2)
        sizes = tuple(d.pick(3, 4, 5) for _ in range(rank))
        kernel = tuple(d.pick(1, 2, 3) for _ in range(rank))
        kwargs = {"stride": d.ints(rank, 1, 2, 3), "dilation": d.ints(rank, 1, 2), "groups": g}
        bias = d.pick(None, d.normal(o))
        if name.startswith("conv_t"):
            kwargs |= {"padding": d.ints(rank, 0, 1), "output_padding": d.ints(rank, 0, 0, 1)}
            w = d.normal(i, o // g, *kernel)
        else:
            kwargs["padding"] = d.pick(d.ints(rank, 0, 1, 2), "same", "valid")
            if kwargs["padding"] == "same" and d.pick(True, True, False):
                kwargs["stride"] = 1
            w = d.normal(o, i // g, *kernel)
        grad = (0, 1) if bias is None else (0, 1, 2)
        yield Case(name, (d.normal(*d.lead(), i, *sizes), w, bias), (), kwargs, grad)


def pool_case(name):
    rank, d = int(name[-2]), Draw(name)
    while True:
        x = d.normal(*d.lead(), 2, *(d.pick(3, 4, 6) for _ in range(rank)))
        kwargs = {
            "stride": d.pick(None, d.ints(rank, 1, 2, 3)),
            "padding": d.ints(rank, 0, 0, 1),
            "ceil_mode": d.pick(True, False),
        }
        if name.startswith("max"):
            kwargs |= {"dilation": d.ints(rank, 1, 1, 2), "return_indices": d.pick(True, False)}
            if d.pick(True, False, False, False):
                x.flat[d.rng.integers(x.size)] = (
                    np.nan
                )  # one: of several NaN PyTorch's index is the last, ours the first
            if d.pick(True, False, False):
                x = np.round(x)  # ties
        else:
            kwargs["count_include_pad"] = d.pick(True, False)
            if rank > 1:
                kwargs["divisor_override"] = d.pick(None, 3, -2)
        yield Case(name, (x,), (d.ints(rank, 1, 2, 3),), kwargs, () if np.isnan(x).any() else (0,))


def unpool_case(name):
    rank, d = int(name[-2]), Draw(name)
    while True:
        sizes = tuple(d.pick(2, 3) for _ in range(rank))
        k, s = d.pick(2, 3), d.pick(2, 3)
        target = tuple((n - 1) * s + k + d.pick(0, 0, 1, -1, -3) for n in sizes)
        lead = (*d.lead(), 2)
        count = max(int(np.prod([(n - 1) * s + k for n in sizes])), 1)
        limit = max(min(count, int(np.prod(target))), 1)
        indices = d.rng.integers(0, limit + (3 if d.pick(True, *[False] * 9) else 0), (*lead, *sizes))
        if d.pick(True, False) and limit >= np.prod(sizes):
            rows = [d.rng.permutation(limit)[: np.prod(sizes)] for _ in range(int(np.prod(lead)))]
            indices = np.reshape(rows, (*lead, *sizes))
        size = d.pick(None, target, (*(lead if len(lead) == 2 else (1, *lead)), *target))
        # PyTorch sends the gradient of a position to all of its duplicates; the derivative is the winner's alone.
        flat = indices.reshape(-1, int(np.prod(sizes)))
        unique = all(len(set(row)) == len(row) for row in flat.tolist())
        yield Case(name, (d.normal(*lead, *sizes), indices), (k, s, 0, size), {}, (0,) if unique else ())


def resize_case(name):
    d = Draw(name)
    modes = ("nearest", "nearest-exact", "area", "linear", "bilinear", "bicubic", "lanczos", "trilinear")
    ranks = {"linear": 1, "bilinear": 2, "bicubic": 2, "lanczos": 2, "trilinear": 3}
    for turn in itertools.count():
        mode = modes[turn % len(modes)]
        rank = 2 if name == "upsample_bilinear" else ranks.get(mode, d.pick(1, 2, 3))
        if d.pick(True, *[False] * 14):
            rank = d.pick(1, 2, 3)
        x = d.normal(d.pick(1, 2), d.pick(1, 2), *(d.pick(1, 3, 4, 5) for _ in range(rank)))
        size, scale = None, None
        if d.pick(True, False):
            size = d.pick(d.pick(1, 2, 4, 7), tuple(d.pick(1, 2, 3, 5, 8) for _ in range(rank)))
        else:
            scale = d.pick(d.pick(1, 2, 0.5, 1.5, 2.7, 3), tuple(d.pick(0.6, 1.0, 1.3, 2.0, 3.1) for _ in range(rank)))
        if name == "interpolate":
            kwargs = {
                "mode": mode,
                "antialias": d.pick(True, False) if mode in ("bilinear", "bicubic") else mode == "lanczos",
            }
            if mode in ranks and mode != "lanczos":
                kwargs["align_corners"] = d.pick(None, True, False)
            if size is None:
                kwargs["recompute_scale_factor"] = d.pick(None, True, False)
        elif name == "upsample":
            mode = "bicubic" if mode == "lanczos" else mode
            kwargs = {"mode": mode} | ({"align_corners": d.pick(None, True, False)} if mode in ranks else {})
        else:
            kwargs = {}
        if kwargs.get("antialias", False) and rank == 2:
            wide = size if isinstance(size, int) else size[1] if size else x.shape[3] * np.ravel(scale)[-1]
            if int(wide) == 1:  # PyTorch's pass over the rows steps wrongly where they are one column wide
                continue
        # With a scale PyTorch's backward is not that of its forward: on three axes nearest reads other positions, and
        # antialiasing works on axes of unchanged size, which the forward passes over.
        nearest = kwargs.get("mode", "nearest").startswith("nearest")
        scaled = scale is not None and (kwargs.get("antialias", False) or (nearest and rank == 3))
        yield Case(name, (x,), (size, scale), kwargs, () if scaled else (0,))


def shuffle_case(name):
    d = Draw(name)
    while True:
        r = d.pick(1, 2, 3)
        lead, channels = d.pick((), (2,), (2, 1)), d.pick(1, 2) * (r * r if name == "pixel_shuffle" else 1)
        sizes = [d.pick(1, 2) * (1 if name == "pixel_shuffle" else r) for _ in range(2)]
        if d.pick(True, *[False] * 5):
            channels, sizes = channels + 1, [sizes[0] + 1, sizes[1]]
        yield Case(name, (d.normal(*lead, channels, *sizes),), (r,), {}, (0,))


def window_case(name):
    d = Draw(name)
    while True:
        two = lambda *choices: d.pick(d.pick(*choices), (d.pick(*choices), d.pick(*choices)))  # noqa: E731
        k, kwargs = two(1, 2, 3), {"dilation": two(1, 1, 2), "padding": two(0, 1), "stride": two(1, 2)}
        x = d.normal(*d.lead(), 2, d.pick(3, 4, 5), d.pick(3, 4, 5))
        case = Case("unfold", (x,), (k,), kwargs, (0,))
        if name == "unfold":
            yield case
            continue
        try:
            cols = peer(case)
        except RuntimeError:
            continue
        size = tuple(x.shape[-2:]) if d.pick(*[True] * 6, False) else d.pick(5, (4, 5))
        yield Case("fold", (d.normal(*cols.shape),), (size, k), kwargs, (0,))


def pad_case(name):
    d = Draw(name)
    while True:
        mode = d.pick("constant", "reflect", "replicate", "circular")
        rank = d.pick(1, 2, 3)
        x = d.normal(*d.lead(), 2, *(d.pick(3, 4, 5) for _ in range(rank)))
        pairs = d.pick(0, 1, 2, 3, 4) if mode == "constant" else d.pick(rank, rank, rank, rank, 1)
        numbers = tuple(d.pick(0, 1, 2, 3, -1, 1, 2, 4, 5, -2) for _ in range(2 * pairs))
        kwargs = {"mode": mode} | ({"value": d.pick(None, 1.5)} if mode == "constant" else {})
        sizes = x.shape[: -rank - 1 : -1]
        ends = zip(sizes, numbers[::2], numbers[1::2])
        if mode == "circular" and any(min(lo, hi) < 0 and max(lo, hi) > n + min(lo, hi) for n, lo, hi in ends):
            continue  # PyTorch refuses this, or copies memory onto itself without seeing it
        ends = list(zip(sizes, numbers[::2], numbers[1::2]))
        if mode in ("reflect", "replicate") and any(n + lo + hi == 0 for n, lo, hi in ends):
            continue  # PyTorch leaves nothing of an axis if it leaves something of another
        yield Case(name, (x,), (numbers,), kwargs, (0,))


def norm_case(name):
    d = Draw(name)
    while True:
        channels = d.pick(2, 4)
        rest = tuple(d.pick(2, 3) for _ in range(d.pick(1, 2, 3)))
        x = d.normal(2, channels, *rest)
        w, b = d.pick((None, None), (d.normal(channels), d.normal(channels)), (d.normal(channels), None))
        kwargs = {"eps": d.pick(1e-5, 1e-2)}
        if name == "group_norm":
            yield Case(name, (x,), (d.pick(1, 2, channels),), kwargs, (0,))
        elif name == "layer_norm":
            shape = x.shape[d.pick(1, 2, x.ndim - 1) :]
            yield Case(name, (x,), (shape,), kwargs, (0,))
        else:
            mean, var = d.normal(channels), d.rng.uniform(0.5, 1.5, channels)
            flag = d.pick(True, False)
            kwargs["training" if name == "batch_norm" else "use_input_stats"] = flag
            # PyTorch writes to the statistics it is given.
            arrays = (x, None, None, w, b) if flag else (x, mean, var, w, b)
            yield Case(name, arrays, (), kwargs, tuple(i for i in (0, 3, 4) if arrays[i] is not None))


def linear_case(name):
    d = Draw(name)
    while True:
        if name == "prelu":
            x = d.normal(2, 3, *(d.pick(1, 2, 3) for _ in range(d.pick(0, 1, 2))))
            yield Case(name, (x, d.normal(d.pick(1, 3))), (), {}, (0, 1))
        else:
            x, bias = d.normal(*(d.pick(1, 2, 3) for _ in range(d.pick(0, 1, 2))), 3), d.pick(None, d.normal(2))
            yield Case(name, (x, d.normal(2, 3), bias), (), {}, (0, 1) if bias is None else (0, 1, 2))


def adaptive_case(name):
    rank, d = int(name[-2]), Draw(name)
    while True:
        x = d.normal(*d.lead(), 2, *(d.pick(1, 3, 4, 5, 7) for _ in range(rank)))
        sizes = d.pick(d.pick(1, 2, 3, 6), tuple(d.pick(1, 2, 3, 5) for _ in range(rank)))
        if rank > 1 and isinstance(sizes, tuple) and d.pick(True, False):
            sizes = (None, *sizes[1:])
        yield Case(name, (x,), (sizes,), {"return_indices": d.pick(True, False)} if "max" in name else {}, (0,))


def grid_case(name):
    d = Draw(name)
    while True:
        rank = d.pick(2, 2, 3)
        x = d.normal(2, 2, *(d.pick(1, 3, 4) for _ in range(rank)))
        grid = d.rng.uniform(-1.8, 1.8, (2, *(d.pick(1, 2, 3) for _ in range(rank)), rank))
        kwargs = {
            "mode": d.pick("bilinear", "nearest", *(["bicubic"] if rank == 2 else [])),
            "padding_mode": d.pick("zeros", "border", "reflection"),
            "align_corners": d.pick(True, False),
        }
        yield Case(name, (x, grid), (), kwargs, (0, 1) if kwargs["mode"] == "bilinear" else (0,))


GENERATORS = {
    **dict.fromkeys(("batch_norm", "instance_norm", "group_norm", "layer_norm"), norm_case),
    **dict.fromkeys(("linear", "prelu"), linear_case),
    **{f"adaptive_{k}_pool{r}d": adaptive_case for k in ("avg", "max") for r in (1, 2, 3)},
    "grid_sample": grid_case,
    **{f"{n}{r}d": conv_case for n in ("conv", "conv_transpose") for r in (1, 2, 3)},
    **{f"{n}{r}d": pool_case for n in ("max_pool", "avg_pool") for r in (1, 2, 3)},
    **{f"max_unpool{r}d": unpool_case for r in (1, 2, 3)},
    **dict.fromkeys(("interpolate", "upsample", "upsample_nearest", "upsample_bilinear"), resize_case),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), shuffle_case),
    **dict.fromkeys(("unfold", "fold"), window_case),
    "pad": pad_case,
}  # fmt: skip


def test_every_name_has_a_generator():
    assert set(GENERATORS) == set(dialect.__all__)


def sweep(count, names=tuple(GENERATORS)):
    tally = Tally("jaxconv.dialects.torch")
    for name in names:
        rng = np.random.default_rng(SEED)
        for case in itertools.islice(GENERATORS[name](name), count):
            run_case(tally, case, getattr(dialect, name), peer, peer_grad, rng=rng)
        jax.clear_caches()
    tally.finish()


def test_random_argument_sets(x64):
    sweep(8)


@by_the_hundred
@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATORS)
def test_random_argument_sets_by_the_hundred(name, x64):
    sweep(cases_per_name(200), [name])


# ---------------------------------------------------------------------- PyTorch's own samples and refusals


def op_infos():
    os.environ.setdefault("PYTORCH_TEST_WITH_SLOW", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("expecttest", reason="PyTorch's operator samples need the package expecttest")
        from torch.testing._internal.common_methods_invocations import op_db
    wanted = {f"nn.functional.{name}" for name in dialect.__all__}
    return [op for op in op_db if op.name in wanted]


def as_case(name, sample, grad=()):
    values = [sample.input, *sample.args]
    count = next((i for i, v in enumerate(values) if not isinstance(v, torch.Tensor) and v is not None), len(values))
    arrays = tuple(None if v is None else v.detach().numpy() for v in values[:count])
    kwargs = {k: v.detach().numpy() if isinstance(v, torch.Tensor) else v for k, v in sample.kwargs.items()}
    for key in ("bias", *(["weight"] if name == "prelu" else [])):  # a keyword array goes in by position
        if key in kwargs:
            arrays += (kwargs.pop(key),)
    rest = tuple(tuple(v) if isinstance(v, torch.Size) else v for v in values[count:])
    return Case(name, arrays, rest, kwargs, grad)


def samples(limit):
    tally = Tally("PyTorch's own samples")
    for op in op_infos():
        name, every = op.name.rsplit(".", 1)[1], {}
        for dtype in (torch.float64, torch.complex128, torch.int64, torch.uint8):
            if dtype not in op.dtypes:
                continue
            try:
                found = list(op.sample_inputs("cpu", dtype, requires_grad=False))
            except (RuntimeError, NotImplementedError, ValueError):
                continue
            # PyTorch lets an empty vector through its batch norm, which has no channels to normalise.
            found = [s for s in found if s.input.numel() < 5000 and (name != "batch_norm" or s.input.ndim > 1)]
            every[dtype] = found[:: max(len(found) // limit, 1)]
        for dtype, found in every.items():
            for sample in found:
                case = as_case(name, sample)
                case.tolerance = 1.0 if dtype == torch.uint8 and name in ("interpolate", "upsample_bilinear") else 0.0
                run_case(tally, case, getattr(dialect, name), peer)
        jax.clear_caches()
    tally.finish()


def test_pytorch_samples(x64):
    samples(6)


@by_the_hundred
@pytest.mark.slow
def test_pytorch_samples_all(x64):
    samples(400)


def test_pytorch_refusals(x64):
    tally = Tally("PyTorch's own refusals")
    for op in op_infos():
        name = op.name.rsplit(".", 1)[1]
        if op.error_inputs_func is None:
            continue
        for bad in op.error_inputs("cpu"):
            case = as_case(name, bad.sample_input)
            if name.startswith("max_unpool") and case.arrays[1].dtype == np.int32:
                continue  # int32 indices are what jax has
            run_case(tally, case, getattr(dialect, name), peer)
    tally.finish()
