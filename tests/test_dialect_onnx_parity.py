"""jaxconv.dialects.onnx against the standard's own node tests, and against onnx.reference on random argument sets.

The reference has no gradients: it is differentiated by central differences, which are exact for these (piecewise)
linear operators up to rounding. Argument sets on which the reference departs from the standard's text are not drawn,
and are named where they would be.
"""

import itertools

import jax
import numpy as np
import pytest
from dialect_harness import Case, Tally, by_the_hundred, cases_per_name, first, run_case

import jaxconv.dialects.onnx as dialect

onnx = pytest.importorskip("onnx")
from onnx.reference import ReferenceEvaluator  # noqa: E402

pytestmark = pytest.mark.parity
SEED = 20180312
LATEST = {"Upsample": 9}


def evaluate(case):
    name, kwargs = case.name, dict(case.kwargs)
    outputs = ["Y", "I"] if kwargs.pop("return_indices", False) else ["Y"]
    attributes = {k: v for k, v in kwargs.items() if v is not None and k != "opset"}
    inputs = [*case.arrays, *(None if a is None else np.asarray(a) for a in case.args)]
    names = [f"x{i}" if a is not None else "" for i, a in enumerate(inputs)]
    while names and not names[-1]:
        names.pop()
    node = onnx.helper.make_node(name, names, outputs, **attributes)
    kinds = onnx.helper.np_dtype_to_tensor_dtype
    info = [onnx.helper.make_tensor_value_info(n, kinds(a.dtype), None) for n, a in zip(names, inputs) if n]
    out = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.DOUBLE, None) for n in outputs]
    graph = onnx.helper.make_graph([node], "g", info, out)
    opset = onnx.helper.make_opsetid("", kwargs.get("opset") or LATEST.get(name, 22))
    model = onnx.helper.make_model(graph, opset_imports=[opset])
    got = ReferenceEvaluator(model).run(None, {n: a for n, a in zip(names, inputs) if n})
    if any(0 in np.shape(a) for a in got):
        raise ValueError("the reference returns an empty array, which the dialect refuses")
    return tuple(got) if len(got) > 1 else got[0]


def differences(case, cotangent):
    """The gradient of sum(cotangent * peer) with respect to each array, by central differences."""
    out = []
    for i in case.grad:
        g = np.zeros(case.arrays[i].shape)
        for at in np.ndindex(*g.shape):
            value = []
            for h in (1e-3, -1e-3):
                moved = case.arrays[i].copy()
                moved[at] += h
                arrays = tuple(moved if j == i else a for j, a in enumerate(case.arrays))
                value.append(np.sum(cotangent * first(evaluate(Case(case.name, arrays, case.args, case.kwargs)))))
            g[at] = (value[0] - value[1]) / 2e-3
        out.append(g)
    return out


# ---------------------------------------------------------------------- argument sets


class Draw:
    def __init__(self, name):
        self.rng = np.random.default_rng([SEED, sum(map(ord, name))])

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def many(self, rank, *choices):
        return [self.pick(*choices) for _ in range(rank)]

    def normal(self, *shape):
        return self.rng.standard_normal(shape)


def conv_case(name):
    d = Draw(name)
    while True:
        rank, g, per = d.pick(1, 2, 2, 3), d.pick(1, 1, 2), d.pick(1, 2)
        x = d.normal(d.pick(1, 2), g * per, *d.many(rank, 3, 4, 5))
        kernel, strides, dilations = d.many(rank, 1, 2, 3), d.many(rank, 1, 2), d.many(rank, 1, 2)
        auto = d.pick("NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
        if auto.startswith("SAME"):  # the reference leaves the dilation out of the SAME pads
            dilations, kernel = [1] * rank, [max(k, s) for k, s in zip(kernel, strides)]
        w = d.normal(g * d.pick(1, 2), per, *kernel)
        kwargs = {"group": g, "strides": strides, "dilations": dilations, "auto_pad": auto}
        if auto == "NOTSET":
            kwargs["pads"] = d.many(2 * rank, 0, 1, 2)
        yield Case(name, (x, w, d.pick(None, d.normal(w.shape[0]))), (), kwargs, (0, 1))


def conv_transpose_case(name):
    d = Draw(name)
    while True:
        rank, g = d.pick(1, 2, 2), d.pick(1, 1, 2)
        per = d.pick(1, 2) if g == 1 else 1
        x = d.normal(d.pick(1, 2), g * per, *d.many(rank, 2, 3))
        kernel, strides, dilations = d.many(rank, 1, 2, 3), d.many(rank, 1, 2, 3), d.many(rank, 1, 2)
        out = 1 if g > 1 else d.pick(1, 2)  # with groups the reference holds one channel each way, and no bias
        w = d.normal(g * per, out, *kernel)
        auto = d.pick("NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
        kwargs = {"group": g, "strides": strides, "dilations": dilations, "auto_pad": auto}
        if auto == "NOTSET":
            kwargs["pads"] = d.many(2 * rank, 0, 1)
        kwargs["output_padding"] = d.pick(None, [d.pick(*range(s)) for s in strides])
        if auto.startswith("SAME") and d.pick(True, False):  # without a SAME rule the reference takes no pads at all
            full = [s * (i - 1) + r * (k - 1) + 1 for i, k, s, r in zip(x.shape[2:], kernel, strides, dilations)]
            kwargs["output_shape"] = [max(f - d.pick(0, 1, 2), 1) for f in full]
        yield Case(name, (x, w, d.pick(None, d.normal(out)) if g == 1 else None), (), kwargs, (0, 1))


def pool_case(name):
    d = Draw(name)
    while True:
        rank = d.pick(1, 2, 2, 3)
        x = d.normal(1, 2, *d.many(rank, 3, 4, 5))
        kernel = d.many(rank, 1, 2, 3)
        auto = d.pick("NOTSET", "NOTSET", "SAME_UPPER", "VALID")  # SAME_LOWER rounds the size down in the reference
        strides, dilations = d.many(rank, 1, 2), d.many(rank, 1, 1, 2)
        if auto != "NOTSET":
            dilations, kernel = [1] * rank, [max(k, s) for k, s in zip(kernel, strides)]
        kwargs = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "auto_pad": auto}
        if auto == "NOTSET":
            kwargs["pads"] = [d.pick(0, *range(k)) if k < 3 else d.pick(0, 1) for k in kernel * 2]
            kwargs["ceil_mode"] = d.pick(0, 1)
        if name == "AveragePool":
            kwargs["count_include_pad"] = d.pick(0, 1)
        elif any(s > 1 for s in strides + dilations):
            kwargs |= {"return_indices": d.pick(True, False), "storage_order": d.pick(0, 1)}
        else:  # elsewhere the reference has one output, and misreads pads, rules and ceil_mode
            kwargs = {"kernel_shape": kernel, "strides": strides, "dilations": dilations}
        yield Case(name, (x,), (), kwargs, (0,))


def unpool_case(name):
    d = Draw(name)
    while True:
        rank = d.pick(1, 2)
        x = d.normal(1, 2, *d.many(rank, 2, 3))
        k, s = d.many(rank, 2, 3), d.many(rank, 2, 3)
        size = [(n - 1) * b + a for n, a, b in zip(x.shape[2:], k, s)]
        indices = d.rng.permutation(2 * int(np.prod(size)))[: x.size].reshape(x.shape)
        shape = d.pick(None, np.array([1, 2, *(n + d.pick(0, 1) for n in size)]))
        yield Case(name, (x, indices), (shape,), {"kernel_shape": k, "strides": s}, (0,))


def resize_case(name):
    d = Draw(name)
    kinds = (
        "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize",
    )  # fmt: skip
    for turn in itertools.count():
        mode, kind = ("nearest", "linear", "cubic")[turn % 3], kinds[turn // 3 % 6]
        rank = d.pick(1, 2)
        x = d.normal(1, 2, *d.many(rank, 1, 3, 4))
        axes = d.pick(None, list(range(2, 2 + rank)), list(range(1 + rank, 1, -1)))  # negative ones raise there
        shape = x.shape if axes is None else [x.shape[a] for a in axes]
        lead = 0 if axes is not None else 2
        scales, sizes = None, None
        if d.pick(True, False):
            scales = np.array([1.0] * lead + [d.pick(0.5, 0.7, 1.0, 1.5, 2.0, 2.6) for _ in range(rank)])
            scales = np.where(np.floor(scales * shape) < 1, 1.0, scales)
        else:
            sizes = np.array([*shape[:lead], *d.many(rank, 1, 2, 4, 7)])
        roi = None
        if kind == "tf_crop_and_resize":
            roi = np.array([0.0] * lead + d.many(rank, -0.2, 0.0, 0.3) + [1.0] * lead + d.many(rank, 0.8, 1.0, 1.3))
        kwargs = {
            "mode": mode, "coordinate_transformation_mode": kind, "axes": axes,
            "nearest_mode": d.pick("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
            "cubic_coeff_a": d.pick(-0.75, -0.5), "extrapolation_value": d.pick(0.0, 2.5),
        }  # fmt: skip
        if mode != "nearest":
            kwargs |= {"antialias": d.pick(0, 1), "exclude_outside": d.pick(0, 1)}
        if sizes is not None and kind in ("half_pixel", "asymmetric"):
            kwargs["keep_aspect_ratio_policy"] = d.pick("stretch", "not_larger", "not_smaller")
        # The reference makes cubic coefficients in single precision.
        cubic = mode == "cubic"
        yield Case(name, (x,), (roi, scales, sizes), kwargs, () if cubic else (0,), 1e-5 if cubic else 0.0)


def upsample_case(name):
    d = Draw(name)
    while True:  # the reference knows whole scales and "nearest" only
        x = d.normal(*d.many(d.pick(3, 4), 1, 2, 3))
        yield Case(name, (x,), (np.array(d.many(x.ndim, 1.0, 2.0, 3.0), np.float32),), {"mode": "nearest"}, (0,))


def block_case(name):
    d = Draw(name)
    while True:
        b = d.pick(1, 2, 3)
        if name == "DepthToSpace":
            x, kwargs = d.normal(1, b * b * d.pick(1, 2), d.pick(1, 2), d.pick(1, 2)), {"mode": d.pick("DCR", "CRD")}
        else:
            x, kwargs = d.normal(1, d.pick(1, 2), b * d.pick(1, 2), b * d.pick(1, 2)), {}
        yield Case(name, (x,), (), {"blocksize": b, **kwargs}, (0,))


def col2im_case(name):
    d = Draw(name)
    while True:
        rank = d.pick(1, 2, 2)
        size, block = d.many(rank, 4, 5), d.many(rank, 1, 2, 3)
        strides, dilations, pads = d.many(rank, 1, 2), d.many(rank, 1, 1, 2), d.many(2 * rank, 0, 1)
        counts = [
            (n + pads[i] + pads[i + rank] - r * (k - 1) - 1) // s + 1
            for i, (n, k, s, r) in enumerate(zip(size, block, strides, dilations))
        ]
        if min(counts) < 1:
            continue
        x = d.normal(1, d.pick(1, 2) * int(np.prod(block)), int(np.prod(counts)))
        kwargs = {"strides": strides, "dilations": dilations, "pads": pads}
        yield Case(name, (x,), (np.array(size), np.array(block)), kwargs, (0,))


def grid_case(name):
    d = Draw(name)
    while True:
        rank = d.pick(2, 2, 3)
        x, grid = d.normal(1, 2, *(3, 4, 2)[:rank]), d.rng.uniform(-1.4, 1.4, (1, *(2, 3, 1)[:rank], rank))
        kwargs = {
            "mode": d.pick("linear", "nearest", *(["cubic"] if rank == 2 else [])), "align_corners": d.pick(0, 1),
            "padding_mode": d.pick("zeros", "border", "reflection"),
        }  # fmt: skip
        yield Case(name, (x, grid), (), kwargs, (0,))


GENERATORS = {
    "Conv": conv_case, "ConvTranspose": conv_transpose_case, "Resize": resize_case, "Upsample": upsample_case,
    "MaxPool": pool_case, "AveragePool": pool_case, "MaxUnpool": unpool_case, "DepthToSpace": block_case,
    "SpaceToDepth": block_case, "Col2Im": col2im_case, "GridSample": grid_case,
}  # fmt: skip


def test_every_name_has_a_generator():
    assert set(GENERATORS) == set(dialect.__all__)


def sweep(count, gradient_every, names=tuple(GENERATORS)):
    tally = Tally("jaxconv.dialects.onnx")
    for name in names:
        rng = np.random.default_rng(SEED)
        for turn, case in enumerate(itertools.islice(GENERATORS[name](name), count)):
            gradients = differences if turn % gradient_every == 0 else None
            single = {"value": 1e-5, "gradient": 1e-5} if name == "GridSample" else {}  # as the reference computes it
            run_case(tally, case, getattr(dialect, name), evaluate, gradients, rng=rng, **single)
        jax.clear_caches()
    tally.finish()


def test_random_argument_sets(x64):
    sweep(18, 6)


@by_the_hundred
@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATORS)
def test_random_argument_sets_by_the_hundred(name, x64):
    sweep(cases_per_name(200), 10, [name])


# ---------------------------------------------------------------------- the standard's own node tests


def node_tests():
    from onnx.backend.test.case.node import collect_testcases

    for test in collect_testcases():
        node = test.model.graph.node if test.model is not None else ()
        if len(node) == 1 and node[0].op_type in dialect.__all__ and test.data_sets:
            yield node[0].op_type, test


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_node_tests_of_the_standard(x64):
    tally = Tally("node tests of the standard")
    for name, test in node_tests():
        node = test.model.graph.node[0]
        kwargs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        kwargs = {k: v.decode() if isinstance(v, bytes) else v for k, v in kwargs.items()}
        kwargs["opset"] = next(o.version for o in test.model.opset_import if o.domain == "")
        if name == "MaxPool" and len(node.output) == 2:
            kwargs["return_indices"] = True
        for inputs, outputs in test.data_sets:
            queue = list(inputs)
            given = [queue.pop(0) if n else None for n in node.input]
            count = {"Conv": 3, "ConvTranspose": 3, "MaxUnpool": 2, "GridSample": 2}.get(name, 1)
            case = Case(name, tuple(given[:count]), tuple(given[count:]), kwargs)
            want = tuple(np.asarray(o) for o in outputs) if len(outputs) > 1 else np.asarray(outputs[0])

            def answer(_, want=want):
                return want

            run_case(tally, case, getattr(dialect, name), answer, value=max(test.rtol, 1e-6))
    tally.finish()
