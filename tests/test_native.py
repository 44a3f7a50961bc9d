"""The compiled CPU kernels: built where a compiler is, called only where they may be, exact, safe in threads."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_core_faces import error

import jaxconv as jc
from jaxconv import trilinear
from jaxconv.benchmark.cases import Layer, random_layers
from jaxconv.geometry import ConvGeometry
from jaxconv.lowering import METHODS, Call, cpu

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "jaxconv" / "lowering" / "cpu" / "source"
X86 = platform.machine().lower() in ("x86_64", "amd64")
CPUINFO = Path("/proc/cpuinfo")
HAS = set(CPUINFO.read_text().split()) if CPUINFO.exists() else set()
AVX512, AVX512_BF16, AMX = "avx512f" in HAS, "avx512_bf16" in HAS, "amx_bf16" in HAS
built = pytest.mark.skipif(not cpu.available(), reason=f"compiled kernels: {cpu.status()}")
compiles = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")


def text(f, *args):
    return jax.jit(f).lower(*args).as_text()


def process(program, cwd=None, **environment):
    """The standard output of a Python program in a process of its own."""
    env = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=env, cwd=cwd, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@built
def test_the_choice_calls_them_on_one_cpu_device():
    x, w = jnp.ones((1, 16, 16, 8)), jnp.ones((3, 3, 8, 8))
    assert "jaxconv_apply_float32" in text(functools.partial(jc.conv, method="cpu_kernels"), x, w)

    def gradients(x, w):
        return jax.vjp(lambda x, w: jc.conv_transpose(x, w, stride=2, method="cpu_kernels"), x, w)[1](
            jnp.ones((1, 33, 33, 8))
        )

    program = text(gradients, x, w)
    assert "jaxconv_apply_float32" in program and "jaxconv_kernel_float32" in program


@built
def test_an_exported_program_calls_none():
    """A custom call would need jaxconv, and this machine's processor, where the program is read back."""
    x, w = jnp.ones((1, 16, 16, 8)), jnp.ones((3, 3, 8, 8))
    exported = jax.export.export(jax.jit(functools.partial(jc.conv, method="cpu_kernels")), platforms=["cpu"])(x, w)
    assert "custom_call" not in exported.mlir_module()
    again = jax.export.deserialize(exported.serialize())
    assert error(again.call(x, w), np.asarray(jc.conv(x, w))) <= 1e-6


@built
def test_sharded_arrays_are_left_to_the_partitioner():
    """XLA cannot split a custom call; inside shard_map each device calls one for its own share."""
    said = process(
        """
import jax, jax.numpy as jnp, numpy as np, jaxconv as jc
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
mesh = jax.make_mesh((4,), ("b",), axis_types=(AxisType.Auto,))
x = np.random.default_rng(0).standard_normal((8, 9, 9, 8)).astype(np.float32)
w = np.random.default_rng(1).standard_normal((3, 3, 8, 8)).astype(np.float32)
want = np.asarray(jc.conv(x, w))
f = jax.jit(lambda x, w: jc.conv(x, w, method="cpu_kernels"))
split = jax.device_put(x, NamedSharding(mesh, P("b")))
shares = jax.shard_map(f, mesh=mesh, in_specs=(P("b"), P()), out_specs=P("b"))
for g, data in ((f, split), (jax.jit(shares), x)):
    print("custom_call @jaxconv" in g.lower(data, w).as_text(), np.abs(np.asarray(g(data, w)) - want).max() < 1e-4)
""",
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
        JAX_PLATFORMS="cpu",
    )
    assert said.split() == ["False", "True", "True", "True"]


@built
def test_a_library_for_a_newer_jaxlib_is_left_alone(monkeypatch):
    """Registering it would cost jax its CPU backend."""
    monkeypatch.setattr(cpu, "_interface", lambda: 0)
    cpu.status.cache_clear()
    try:
        assert cpu.status().startswith("built for a newer jaxlib than this one (interface ")
        assert not cpu.available()
    finally:
        monkeypatch.undo()
        cpu.status.cache_clear()
    assert cpu.available()


def test_switched_off_the_operations_of_xla_serve():
    said = process(
        """
import jax, jax.numpy as jnp, jaxconv as jc
from jaxconv.lowering import cpu
print(cpu.status())
x, w = jnp.ones((1, 16, 16, 8)), jnp.ones((3, 3, 8, 8))
print("custom_call" in jax.jit(jc.conv).lower(x, w).as_text())
try:
    jc.conv(x, w, method="cpu_kernels")
except ValueError as refusal:
    print(refusal)
""",
        JAXCONV_NATIVE="0",
        JAX_PLATFORMS="cpu",
    ).splitlines()
    assert said[:2] == ["switched off by JAXCONV_NATIVE=0", "False"]
    assert "switched off by JAXCONV_NATIVE=0" in said[2]


@built
@pytest.mark.skipif(not X86, reason="there is one instruction set on this machine")
def test_a_process_can_leave_avx512_unused():
    program = """
import jax.numpy as jnp, jaxconv as jc
from jaxconv import native
print(native.status(), native.instructions())
print(float(jc.conv(jnp.ones((1, 16, 16, 8)), jnp.ones((3, 3, 8, 8)), method="cpu_kernels").sum()))
"""
    ran = [process(program, JAXCONV_NATIVE=word, JAX_PLATFORMS="cpu").splitlines() for word in ("1", "avx2")]
    assert ran[0][0].startswith("ready AVX-512" if AVX512 else "ready AVX2") and ran[1][0] == "ready AVX2"
    assert ran[0][1] == ran[1][1] == str(14.0 * 14 * 72 * 8)


@pytest.mark.parametrize("word", ["false", "No", "OFF", "0", "maybe"])
def test_words_that_switch_them_off(monkeypatch, word):
    monkeypatch.setenv("JAXCONV_NATIVE", word)
    said = cpu.status.__wrapped__()
    assert said.startswith("switched off") and word in said
    assert ("neither on" in said) == (word == "maybe")


@pytest.mark.parametrize("system", ["Windows", "Darwin", "Linux"])
def test_without_the_library_one_sentence_says_what_serves(tmp_path, monkeypatch, system):
    monkeypatch.delenv("JAXCONV_NATIVE", raising=False)
    monkeypatch.setattr(cpu, "_LIBRARY", tmp_path / "kernels.so")
    monkeypatch.setattr(cpu.platform, "system", lambda: system)
    said = cpu.status.__wrapped__()
    assert said.startswith("not built: ") and said.endswith("XLA's own operations serve") and "\n" not in said
    assert ("for Windows" in said) == (system == "Windows")


@built
@pytest.mark.parametrize("harm", ["truncated", "changed", "no stamp", "1 of 3 words", "2 of 3 words", "other sources"])
def test_a_library_that_is_not_the_one_that_was_built_is_never_loaded(tmp_path, monkeypatch, harm):
    """Loading a truncated one ends the process."""
    for name in ("kernels.so", "kernels.stamp"):
        shutil.copy(SOURCE.parent / name, tmp_path / name)
    shutil.copytree(SOURCE, tmp_path / "source")
    library, stamp = tmp_path / "kernels.so", tmp_path / "kernels.stamp"
    content = library.read_bytes()
    if harm == "truncated":
        library.write_bytes(content[: len(content) // 3])
    elif harm == "changed":
        library.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    elif harm == "no stamp":
        stamp.unlink()
    elif harm.endswith("of 3 words"):
        stamp.write_text(" ".join(stamp.read_text().split()[: int(harm[0])]))
    else:
        (tmp_path / "source" / "ffi.cc").write_text("// another version")
    monkeypatch.setattr(cpu, "_LIBRARY", library)
    monkeypatch.setattr(cpu.ctypes, "CDLL", lambda path: pytest.fail("it was loaded"))
    cpu._digest.cache_clear()
    said = cpu.status.__wrapped__()
    monkeypatch.undo()
    cpu._digest.cache_clear()
    word = {"truncated": "damaged", "changed": "damaged", "other sources": "stale"}.get(harm, "not checked")
    assert said.startswith(f"{word}: ") and "reinstall jaxconv" in said


@built
def test_a_saved_program_is_loaded_by_a_process_that_only_imports_jaxconv(tmp_path):
    save = """
import pickle, sys, jax, jax.numpy as jnp, jaxconv as jc
from jax.experimental import serialize_executable as se
f = jax.jit(lambda x, w: jc.conv(x, w, padding=1, method="native"))
made = f.lower(jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4)))
assert "custom_call" in made.as_text()
pickle.dump(se.serialize(made.compile()), open(FILE, "wb"))
"""
    load = """
import pickle
FIRST
jax.config.update("jax_num_cpu_devices", 1)  # refused once there is a backend: the import made none
import jax.numpy as jnp
from jax.experimental import serialize_executable as se
f = se.deserialize_and_load(*pickle.load(open(FILE, "rb")))
print(f(jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4)))[0, 1, 1].tolist())
"""
    file = f"FILE = {str(tmp_path / 'program')!r}"
    process(file + save, JAX_PLATFORMS="cpu")
    for first in ("import jaxconv, jax", "import jax, jaxconv"):
        assert process(file + load.replace("FIRST", first), JAX_PLATFORMS="cpu").split() == [
            "[36.0,",
            *["36.0,"] * 2,
            "36.0]",
        ]


@pytest.mark.slow
@built
def test_the_compilation_cache_across_rebuilds_of_the_kernels(tmp_path):
    """Another library has other names for its kernels, so its programs other keys: none meets the wrong one."""
    other = tmp_path / "site" / "jaxconv"
    shutil.copytree(ROOT / "jaxconv", other, ignore=shutil.ignore_patterns("__pycache__"))
    library = other / "lowering" / "cpu" / "kernels.so"
    with library.open("ab") as file:
        file.write(b"rebuilt")
    stamp = library.with_suffix(".stamp")
    words = stamp.read_text().split()
    stamp.write_text(" ".join((words[0], hashlib.sha256(library.read_bytes()).hexdigest(), words[2])))
    run = """
import jax, jax.numpy as jnp, jaxconv as jc
f = jax.jit(lambda x, w: jc.conv(x, w, padding=1, method="native"))
from jaxconv import native
print(native.status(), float(f(jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4)))[0, 1, 1, 0]), jc.__path__[0])
"""
    cache = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    kept = []
    for home in (ROOT, other.parent, ROOT):
        said = process(run, tmp_path, PYTHONPATH=str(home), **cache)
        assert said == f"ready 36.0 {home / 'jaxconv'}\n"
        kept.append(len(list((tmp_path / "cache").glob("jit__lambda*-cache"))))
    assert kept == [1, 2, 2]


@built
def test_forked_workers_never_answer_wrongly():
    """A forked worker may read pixels, not run JAX: without its threads even x + 1 waits for ever, as JAX warns.

    The kernels need no thread and may answer where JAX gets as far; the parent is not disturbed.
    """
    program = """
import os, select, warnings, jax, jax.numpy as jnp, numpy as np, jaxconv as jc
warnings.simplefilter("ignore")
f = jax.jit(lambda x, w: jc.conv(x, w, padding=1, method="native"))
x = jnp.asarray(np.random.default_rng(0).integers(-4, 5, (2, 96, 96, 16)), jnp.float32)
w = jnp.ones((3, 3, 16, 16))
want, pixels = np.asarray(f(x, w)), np.asarray(x)
for worker in range(2):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, b"r" if pixels[:, ::2].shape == (2, 48, 96, 16) else b"w")
        os.write(writing, b"r" if np.array_equal(f(x, w), want) else b"w")
        os._exit(0)
    answers = b""
    while len(answers) < 2 and select.select([reading], [], [], 2)[0]:
        answers += os.read(reading, 1)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    assert answers in (b"r", b"rr"), answers
    assert np.array_equal(f(x, w), want)
print("right")
"""
    assert process(program, JAX_PLATFORMS="cpu") == "right\n"


@built
def test_lying_sizes_are_errors_of_xla():
    """Each of the 22 sizes in turn; a program need not have been made by this version."""
    x, w = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
    right = [1, 8, 8, 1, 3, 3, 1, 6, 6, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 4, 4, 1, 0]

    def call(sizes):
        result = jax.ShapeDtypeStruct((1, 6, 6, 4), jnp.float32)
        return jax.ffi.ffi_call(cpu.target("apply", "float32"), result)(x, w, sizes=np.array(sizes, np.int64))

    np.testing.assert_array_equal(call(right), np.full((1, 6, 6, 4), 36))
    for place in range(22):
        spacing = 9 <= place < 15
        wrong = [*right[:place], 0 if spacing else 2**62 if 15 <= place < 18 else 7, *right[place + 1 :]]
        with pytest.raises(jax.errors.JaxRuntimeError, match="jaxconv: "):
            call(wrong).block_until_ready()
    with pytest.raises(jax.errors.JaxRuntimeError, match="must have 23 entries"):
        call(right[:-1]).block_until_ready()


@built
def test_strides_and_pads_longer_than_any_array_end():
    """Depthwise kernels asked for the next line of the operand, a stride away, number by number."""
    x, w = jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 1, 3))
    f = jax.jit(lambda x, w: jc.conv(x, w, stride=(2**24, 1), padding=1, groups=3, method="native"))
    np.testing.assert_array_equal(f(x, w)[0, 0, :, 0], [4, 6, 6, 4])
    far = jc.conv(x, jnp.ones((3, 3, 3, 2)), padding=[(0, 0), (2**24 - 1, 8 - 2**24)])
    np.testing.assert_array_equal(far, np.zeros((1, 2, 9, 2)))


SHORT = {  # face: shape of x, of w, settings
    "3x3": ((2, 21, 30, 48), (3, 3, 48, 64), {"padding": 1}),
    "3x3 without padding, few results": ((1, 51, 48, 64), (3, 3, 64, 21), {}),
    "dilated": ((1, 33, 40, 64), (3, 3, 64, 48), {"padding": (5, 3), "dilation": (5, 3)}),
    "4x4": ((1, 25, 26, 64), (4, 4, 64, 64), {"padding": [(0, 2), (3, 1)]}),
    "4x4, stride 2": ((1, 49, 50, 128), (4, 4, 128, 128), {"padding": 1, "stride": 2}),
    "5x5": ((1, 40, 41, 64), (5, 5, 64, 64), {"padding": 2}),
    "9x9": ((1, 32, 30, 32), (9, 9, 32, 32), {"padding": 4}),
    "groups": ((1, 30, 31, 128), (3, 3, 32, 128), {"padding": 1, "groups": 4}),
    "1-D": ((2, 701, 128), (3, 128, 128), {"padding": [(8, 0)], "dilation": 4}),
    "1-D, 2 taps": ((1, 3000, 256), (2, 256, 256), {}),
    "3-D": ((1, 12, 13, 15, 32), (3, 3, 3, 32, 32), {"padding": 1}),
    "many channels, few positions": ((1, 14, 14, 256), (3, 3, 256, 256), {"padding": 1}),
}


def short_faces(x, w, settings, **more):
    """The three faces as functions of two arrays, and such arrays of the right shapes."""
    y = jax.eval_shape(functools.partial(jc.conv, **settings), x, w)
    k, u = w.shape[:-2], x.shape[1:-1]
    return {
        "apply": (functools.partial(jc.conv, **settings, **more), x, w),
        "adjoint": (functools.partial(jc.conv_transpose, **settings, output_size=u, **more), y, w),
        "kernel": (functools.partial(jc.conv_kernel, kernel_size=k, **settings, **more), x, y),
    }


def drawn(shape, whole, seed):
    values = np.random.default_rng(seed).standard_normal(shape.shape)
    return np.rint(4 * values) if whole else values


@built
@pytest.mark.parametrize("face", ["apply", "adjoint", "kernel"])
@pytest.mark.parametrize("name", SHORT)
def test_short_kernels_are_filtered_minimally(name, face, x64):
    """Near the sums in double precision, exactly right for whole numbers, and not rounded as plain sums are."""
    x, w, settings = SHORT[name]
    arrays = jax.ShapeDtypeStruct(x, jnp.float32), jax.ShapeDtypeStruct(w, jnp.float32)
    f, *shapes = short_faces(*arrays, settings)[face]
    plain = short_faces(*arrays, settings, precision="highest")[face][0]
    a, b = (drawn(shape, False, seed) for seed, shape in enumerate(shapes))
    right = np.asarray(f(a, b))
    a, b = a.astype(np.float32), b.astype(np.float32)
    got, sums = np.asarray(f(a, b)), np.asarray(plain(a, b))
    assert got.dtype == np.float32
    size = np.abs(right).max()
    assert np.abs(got - right).max() <= 3e-6 * size
    assert np.abs(sums - right).max() <= 3e-6 * size
    assert (got != sums).any(), "the plain kernels were called"
    a, b = (drawn(shape, True, seed).astype(np.float32) for seed, shape in enumerate(shapes))
    np.testing.assert_array_equal(f(a, b), plain(a, b))


@built
@pytest.mark.parametrize("face", ["apply", "adjoint"])
@pytest.mark.parametrize("name", SHORT)
def test_a_filtered_result_depends_on_its_own_window_only(name, face):
    """Also where a kernel's taps are no multiple of what is filtered together."""
    x, w, settings = SHORT[name]
    arrays = jax.ShapeDtypeStruct(x, jnp.float32), jax.ShapeDtypeStruct(w, jnp.float32)
    f, *shapes = short_faces(*arrays, settings)[face]
    a, b = (drawn(shape, False, seed).astype(np.float32) for seed, shape in enumerate(shapes))
    before = np.asarray(f(a, b))
    for share in (0.0, 0.3, 0.45, 0.5, 0.55, 0.99):
        place = (0, *(int(share * size) for size in a.shape[1:-1]))
        mark, huge = np.zeros_like(a), a.copy()
        mark[place], huge[place] = 1, 1e30
        meets = short_faces(*arrays, settings, precision="highest")[face][0](mark, np.ones_like(b)) != 0
        after = np.asarray(f(huge, b))
        np.testing.assert_array_equal(after[~meets], before[~meets])
        assert np.isfinite(after).all() and (after[meets] != before[meets]).all()


@built
@pytest.mark.parametrize("face", ["apply", "adjoint", "kernel"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
def test_what_is_not_finite_is_summed_plainly(face, value):
    """A filter's sums would make no number of what is infinite, or overflow on the way."""
    x, w, settings = SHORT["3x3"]
    arrays = jax.ShapeDtypeStruct(x, jnp.float32), jax.ShapeDtypeStruct(w, jnp.float32)
    f, *shapes = short_faces(*arrays, settings)[face]
    plain = short_faces(*arrays, settings, precision="highest")[face][0]
    a, b = (drawn(shape, False, seed).astype(np.float32) for seed, shape in enumerate(shapes))
    a[1, 3, 2:6, 3] = value
    b = np.sign(b) / 8 if value == 3e38 else b
    got = np.asarray(f(a, b))
    np.testing.assert_array_equal(got, plain(a, b))
    assert np.isfinite(got).all() == (value == 3e38)


@built
def test_the_precision_that_asks_for_plain_sums():
    x, w = np.random.default_rng(0).standard_normal((2, 1, 32, 32, 64), np.float32)
    w = np.random.default_rng(1).standard_normal((3, 3, 64, 64), np.float32)
    f = functools.partial(jc.conv, x[:1].reshape(1, 32, 32, 64), w)
    plain = f(precision="highest")
    for same in (jax.lax.Precision.HIGHEST, "float32", ("highest", "default"), (None, jax.lax.Precision.HIGHEST)):
        np.testing.assert_array_equal(f(precision=same), plain)
    with jax.default_matmul_precision("highest"):
        np.testing.assert_array_equal(f(), plain)
    for other in (None, "high", jax.lax.Precision.DEFAULT, ("default", "default")):
        assert (f(precision=other) != plain).any()


def narrow_groups():
    """Groups of one to four channels a side, fewer lanes than a vector and more, strides and dilations."""
    for groups, i, o, stride, dilation in [
        (2, 1, 1, 1, 1),
        (3, 1, 1, 2, 1),
        (5, 3, 1, 1, 2),
        (6, 1, 4, 1, 1),
        (12, 2, 3, 2, 1),
    ]:
        name = f"{groups} groups of {i}->{o}, s{stride} r{dilation}"
        yield Layer(name, 2, (19, 37), groups * i, groups * o, (3, 5), stride, dilation, 2, groups)


@built
@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(layer, id=layer.name, marks=[pytest.mark.slow] * (len(layer.size) == 3))
        for layer in (*random_layers(6, seed=21), *narrow_groups())
    ],
)
def test_faces_of_real_sizes_agree_with_the_reference_lowering(layer):
    """Sizes at which chunks, splits and threads matter; the geometries of test_core_faces.py are tiny."""
    rng = np.random.default_rng(0)
    arrays = {k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in layer.shapes.items()}
    for face, (a, b) in {"apply": ("x", "w"), "adjoint": ("y", "w"), "kernel": ("x", "y")}.items():
        got, want = (
            jax.jit(functools.partial(getattr(trilinear, face), geometry=layer.geometry, method=m))(
                arrays[a], arrays[b]
            )
            for m in ("cpu_kernels", "lax")
        )
        assert error(got, np.asarray(want)) <= 2e-5, face


@built
def test_runs_are_deterministic_and_threads_do_not_disturb_each_other():
    g = ConvGeometry.resolve(input_size=(40, 40), kernel_size=(3, 3), padding=1)
    rng = np.random.default_rng(3)
    xs = [jnp.asarray(rng.standard_normal((2, 40, 40, 24)), jnp.float32) for _ in range(8)]
    y = jnp.asarray(rng.standard_normal((2, 40, 40, 40)), jnp.float32)
    f = jax.jit(functools.partial(trilinear.kernel, geometry=g, method="cpu_kernels"))
    want = [np.asarray(f(x, y)) for x in xs]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for got, expected in zip(pool.map(lambda x: np.asarray(f(x, y)), xs), want, strict=True):
                np.testing.assert_array_equal(got, expected)


@built
def test_a_wider_result_is_summed_in_its_own_dtype(x64):
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((1, 9, 9, 30), (3, 3, 30, 8)))
    f = functools.partial(jc.conv, preferred_element_type=jnp.float64, method="cpu_kernels")
    assert "jaxconv_apply_float64" in text(f, x, w)
    want = jc.conv(x.astype(jnp.float64), w.astype(jnp.float64), method="lax")
    assert error(f(x, w), np.asarray(want)) <= 1e-14


@built
def test_empty_and_unsupported_calls_are_left_to_xla():
    g = ConvGeometry.resolve(input_size=(4, 4), kernel_size=(3, 3))
    full = Call("apply", g, 2, 3, 5, np.dtype("float32"), np.dtype("float32"), None, "cpu", True)
    assert METHODS["cpu_kernels"].serves(full)
    ints, half = {"dtype": np.dtype("int32"), "out_dtype": np.dtype("int32")}, {"dtype": np.dtype("float16")}
    for change in ({"batch": 0}, {"runs_here": False}, {"platform": "cuda"}, ints):
        assert not METHODS["cpu_kernels"].serves(dataclasses.replace(full, **change)), change
    assert METHODS["cpu_kernels"].serves(dataclasses.replace(full, **half))  # widened on CPUs
    empty = jc.conv(jnp.ones((0, 4, 4, 3)), jnp.ones((3, 3, 3, 5)), method="cpu_kernels")
    assert empty.shape == (0, 2, 2, 5)


def fuzz(program, isa, number, cxx, *options):
    """Compile the fuzz with the kernels of an instruction set; three of four calls are filtered where they can be."""
    subprocess.run(
        [*cxx, "-std=c++17", *options, f"-DJAXCONV_ISA={isa}", f"-DJAXCONV_NAME=kernels_{isa}"]
        + ["-DJAXCONV_FILTER_GAIN=1e9"]
        + [*hatch_build().number(number), f"-I{SOURCE}", str(SOURCE / "kernels.cc"), str(SOURCE / "scratch.cc")]
        + [str(ROOT / "tests" / "native" / "fuzz.cc"), "-o", str(program), "-pthread"],
        check=True,
    )


@pytest.mark.slow
@compiles
@pytest.mark.parametrize(
    ("isa", "number"),
    [
        (isa, number)
        for isa in ["neon", "avx512 anywhere"] + ["avx2"] * X86 + ["avx512"] * AVX512
        for number in ("float", "double", "Bfloat16", "Float16")
    ]
    + [("avx512bf16 anywhere", "Bfloat16"), ("amx anywhere", "Bfloat16")]
    + [("avx512bf16", "Bfloat16")] * AVX512_BF16
    + [("amx", "Bfloat16")] * AMX,
)
def test_random_geometries_under_the_sanitizers(isa, number, tmp_path):
    """Every instruction set's sizes, address and undefined-behaviour sanitizers, against the definition."""
    here, tiles = ["-mavx512f", "-mfma", "-mf16c"], "ROWS=12 THIN_ROWS=12 FEW_ROWS=6 LONE_ROWS=6 LONE_VECTORS=4".split()
    anywhere = ["-DJAXCONV_VECTOR=64", *(f"-DJAXCONV_{size}" for size in tiles), "-Wno-psabi"]  # sizes of its tiles
    least = "-DJAXCONV_MATRIX_LEAST=0"  # no products are too few for the matrix unit
    options = {
        "avx2": ["-mavx2", "-mfma", "-mf16c", "-DJAXCONV_COPIED=0"],  # no operand is too small to be read in pieces
        "avx512": [*here, "-DJAXCONV_COPIED=0"],
        "avx512bf16": [*here, "-mavx512bw", "-mavx512bf16", "-DJAXCONV_COPIED=0"],
        "amx": [*here, "-mavx512bw", "-mavx512bf16", "-mamx-tile", "-mamx-bf16", least],
        "avx512 anywhere": anywhere,
        "avx512bf16 anywhere": [*anywhere, "-DJAXCONV_PAIRS=1"],
        "amx anywhere": [*anywhere, "-DJAXCONV_PAIRS=1", "-DJAXCONV_MATRIX=1", least],
        "neon": ["-DJAXCONV_VECTOR=16", "-DJAXCONV_ROWS=12", "-DJAXCONV_LONE_ROWS=8"],
    }[isa]
    sanitizers = ["-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    fuzz(tmp_path / "fuzz", isa.split()[0], number, ["g++"], *sanitizers, *options)
    done = subprocess.run([tmp_path / "fuzz", "1", "150"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    print(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("number", ["float", "Bfloat16", "Float16"])
def test_random_geometries_on_arm64_under_an_emulator(number, tmp_path):
    """As a wheel for arm64 has them, against the definition; the emulator's arithmetic is exact."""
    cxx = shutil.which("aarch64-linux-gnu-g++")
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if cxx is None or emulator is None:
        pytest.skip("no aarch64-linux-gnu-g++ or no qemu-aarch64 (Debian: g++-aarch64-linux-gnu, qemu-user-static)")
    build = hatch_build()
    flags = *build.FLAGS, *build.INSTRUCTION_SETS["__aarch64__"]["neon"]
    fuzz(tmp_path / "fuzz", "neon", number, [cxx, "-static"], *flags)
    done = subprocess.run([emulator, tmp_path / "fuzz", "1", "150"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    print(done.stdout)


def hatch_build():
    """The module hatch_build.py; hatchling itself is here only while a wheel is built."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        name = "hatchling.builders.hooks.plugin.interface"
        patch.setitem(sys.modules, name, types.SimpleNamespace(BuildHookInterface=object))
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("macros", "sets", "tag"),
    [
        ("__linux__ __x86_64__", ["avx2", "avx512", "avx512bf16"], "linux_x86_64"),
        ("__linux__ __aarch64__", ["neon"], "linux_aarch64"),
        ("__APPLE__ __aarch64__", ["neon"], "macosx_12_0_arm64"),
        ("__linux__ __riscv", ["portable"], "some_machine"),
    ],
)
def test_kernels_are_for_the_machine_that_the_compiler_compiles_for(monkeypatch, macros, sets, tag):
    """A wheel can be built for another machine than this one, whose name its tag then has."""
    build = hatch_build()
    monkeypatch.setattr(build.sysconfig, "get_platform", lambda: "some-machine")
    monkeypatch.setenv("MACOSX_DEPLOYMENT_TARGET", "12.3")
    target = build.target_of(set(macros.split()))
    assert list(target.instruction_sets) == sets and target.platform == tag
    assert ("-mmacosx-version-min=12.3" in target.compile) == ("__APPLE__" in macros)
    assert ("-Wl,-z,defs" in target.link) == ("__APPLE__" not in macros)
    assert set(build.ONLY) <= {name for sets in build.INSTRUCTION_SETS.values() for name in sets}
    monkeypatch.setenv("CXX", f"{sys.executable} -m ziglang c++")
    monkeypatch.setenv("ARCHFLAGS", "-arch arm64")
    assert build.compiler() == [sys.executable, "-m", "ziglang", "c++", "-arch", "arm64"]


@pytest.mark.parametrize("wanted", ["", "1", "0"])
def test_a_wheel_whose_kernels_do_not_build_has_none_and_says_why(tmp_path, monkeypatch, wanted):
    """A compiler for Windows stands for every fault."""
    build = hatch_build()
    monkeypatch.setenv("JAXCONV_BUILD_NATIVE", wanted)
    monkeypatch.setattr(build, "build", lambda source, target: build.target_of({"_WIN32", "__x86_64__"}))
    said, made = [], {"artifacts": []}
    hook = build.NativeBuildHook()
    hook.root, hook.target_name, hook.app = tmp_path, "wheel", types.SimpleNamespace(display_warning=said.append)
    if wanted == "1":
        with pytest.raises(RuntimeError, match="no kernels for Windows"):
            hook.initialize("0", made)
        return
    hook.initialize("0", made)
    assert made == {"artifacts": []}  # as hatchling had it: a wheel for any machine
    assert len(said) == (wanted == "") and all("XLA's own operations serve: there are no kernels" in s for s in said)


@compiles
def test_a_compiler_that_is_too_old_for_an_instruction_set_leaves_it_out():
    build = hatch_build()
    assert build.knows(["g++"], ("-O2",)) and not build.knows(["g++"], ("-mavx1024bf16",))
