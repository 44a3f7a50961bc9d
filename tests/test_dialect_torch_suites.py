"""PyTorch's own test suites through jaxconv.dialects.torch: whatever its module tests call of torch.nn.functional is
recorded with its result, and computed again here. And hostile calls: what PyTorch refuses is refused."""

import contextlib
import itertools
import os
import warnings

import jax
import numpy as np
import pytest
from dialect_harness import Case, Tally, by_the_hundred, cases_per_name, error
from dialect_wild import check, mutate
from test_dialect_torch_parity import GENERATORS, SEED, peer

import jaxconv.dialects.torch as dialect

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest", reason="PyTorch's test suites need the package expecttest")
F = torch.nn.functional
pytestmark = pytest.mark.parity

# The modules that call the functions of the dialect.
MODULES = ("Conv", "MaxPool", "AvgPool", "MaxUnpool", "Fold", "Unfold", "Upsampl", "Pixel", "Pad")
OTHERS = ("Adaptive", "Fractional", "LPPool", "Lazy", "quantized", "Embedding")


@contextlib.contextmanager
def recording():
    """Every call of a name of the dialect, with PyTorch's result: (name, args, kwargs, result)."""
    calls, originals, depth = [], {name: getattr(F, name) for name in dialect.__all__}, [0]

    def recorder(name):
        def call(*args, **kwargs):
            depth[0] += 1
            try:
                result = originals[name](*args, **kwargs)
            finally:
                depth[0] -= 1
            if not depth[0]:  # upsample calls interpolate
                calls.append((name, args, kwargs, result))
            return result

        return call

    for name in originals:
        setattr(F, name, recorder(name))
    try:
        yield calls
    finally:
        for name, function in originals.items():
            setattr(F, name, function)


def to_numpy(value):
    if isinstance(value, torch.Tensor):
        return value.detach().numpy()
    return tuple(value) if isinstance(value, torch.Size) else value


def compare(tally, name, args, kwargs, result):
    args, kwargs = [to_numpy(a) for a in args], {k: to_numpy(v) for k, v in kwargs.items()}
    case = Case(name, tuple(a for a in args if isinstance(a, np.ndarray)),
                tuple(a for a in args if not isinstance(a, np.ndarray)), kwargs)  # fmt: skip
    tally.row(name)["cases"] += 1
    try:
        got = getattr(dialect, name)(*args, **kwargs)
    except Exception as e:  # noqa: BLE001 - any error here is a finding
        return tally.fail(case, f"raised {type(e).__name__}: {str(e)[:300]}")
    many = isinstance(result, tuple)
    for g, w in zip(got if many else (got,), result if many else (result,), strict=True):
        e = error(g, to_numpy(w))
        tally.worst["value"] = max(tally.worst["value"], e if np.isfinite(e) else 0)
        if not e <= (1e-9 if w.dtype.itemsize >= 8 else 1e-5):
            return tally.fail(case, f"values differ by {e:.2e} (shapes {np.shape(g)} and {tuple(w.shape)})")
    return None


def replay(tally, calls):
    """Each recorded call once; the same call with other numbers adds nothing."""
    seen = set()
    for name, args, kwargs, result in calls:
        shown = [
            (tuple(v.shape), str(v.dtype)) if isinstance(v, torch.Tensor) else v for v in (*args, *kwargs.values())
        ]
        key = f"{name} {shown} {list(kwargs)}"
        small = all(not isinstance(a, torch.Tensor) or a.numel() < 5000 for a in args)
        if key not in seen and small:
            seen.add(key)
            compare(tally, name, args, kwargs, result)
    jax.clear_caches()
    tally.finish()


def wanted(name):
    return any(m in name for m in MODULES) and not any(o in name for o in OTHERS)


def test_module_infos(x64):
    """torch.testing._internal.common_modules: constructor arguments and inputs of every module."""
    os.environ.setdefault("PYTORCH_TEST_WITH_SLOW", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_modules import module_db
    tally, infos = Tally("PyTorch's modules"), [info for info in module_db if wanted(info.name)]
    assert len(infos) > 15
    with recording() as calls, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for info in infos:
            for training in (True, False):
                inputs = info.module_inputs_func(info, "cpu", torch.float64, requires_grad=False, training=training)
                for given in inputs:
                    module = info.module_cls(*given.constructor_input.args, **given.constructor_input.kwargs).double()
                    module(*given.forward_input.args, **given.forward_input.kwargs)
    replay(tally, calls)


def test_module_tests(x64):
    """torch.testing._internal.common_nn: the older lists, with the functional interpolations among them."""
    with recording() as calls, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal import common_nn

        ran = 0
        for test in (*common_nn.module_tests, *common_nn.get_new_module_tests()):
            name = test.get("module_name") or test.get("fullname") or ""
            if not wanted(name) and "interpolate" not in name:
                continue
            make = test.get("constructor") or getattr(torch.nn, name)
            module = make(*test.get("constructor_args", ()), **test.get("constructor_kwargs", {}))
            if "input_fn" in test:
                given = test["input_fn"]()
            elif "input_size" in test:
                given = torch.randn(test["input_size"])
            else:
                continue
            given = given.double() if isinstance(given, torch.Tensor) else given
            module.double()(given)
            ran += 1
    assert ran > 50
    replay(Tally("PyTorch's older module tests"), calls)


# ---------------------------------------------------------------------- hostile calls


def excused(case, ours, theirs):
    """Where the two may differ."""
    if isinstance(theirs, NotImplementedError):  # a type that only the CPU kernel lacks
        return "not implemented for" in str(theirs)
    if theirs is not None:
        # jax's indices are int32.
        return case.name.startswith("max_unpool") and "int64" in str(theirs) and case.arrays[1].dtype == np.int32
    if case.name.startswith("adaptive_") or case.name in ("batch_norm", "instance_norm"):
        # Nothing is read of an empty input; the mean of everything takes any number of axes.
        if ours is not None and (0 in case.arrays[0].shape or "without a batch" in str(ours)):
            return True
    values = [*case.args, *case.kwargs.values()]
    flat = [v for value in values for v in (value if isinstance(value, (tuple, list)) else [value])]
    if ours is not None and any(isinstance(v, bool) for v in flat):  # a bool among integers counts as one there
        return "bool" in str(ours)
    if case.name.startswith("max_unpool"):  # sizes are computed in Python: fractions, signs and spare entries pass
        return ours is not None
    if case.name == "pixel_unshuffle":  # an empty input comes back as it is
        return 0 in case.arrays[0].shape
    if case.name.startswith("conv"):  # a bias of another type is cast on some paths, refused on others
        return ours is not None and "same type" in str(ours)
    if case.name == "pad":  # an axis may come out empty, but not every one
        return ours is not None and "leave nothing" in str(ours)
    # "area" goes by way of adaptive pooling, which takes sizes of 0.
    return case.kwargs.get("mode") == "area" and ours is not None and "at least 1" in str(ours)


def hostile_calls(count, names=tuple(GENERATORS)):
    tally = Tally("hostile calls of torch")
    for name in names:
        rng = np.random.default_rng([SEED, sum(map(ord, name))])
        for case in itertools.islice(GENERATORS[name](name), count):
            unpool = name.startswith("max_unpool")  # it looks at the values of its indices
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check(tally, mutate(case, rng), getattr(dialect, name), peer, excused, concrete=unpool)
    tally.finish()


def test_hostile_calls(x64):
    hostile_calls(25)


@by_the_hundred
@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATORS)
def test_hostile_calls_by_the_hundred(name, x64):
    hostile_calls(cases_per_name(200), [name])
