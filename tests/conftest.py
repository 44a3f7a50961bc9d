"""Fixtures and settings shared by all tests."""

import os
import pathlib

# Thousands of small programs are compiled once and run once: without LLVM's dear passes that takes two thirds as long.
# CI runs the core's tests with them, too (JAX_DISABLE_MOST_OPTIMIZATIONS=0); processes that tests start inherit it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"

hypothesis.settings.register_profile("local", deadline=None, print_blob=True)
# Fixed examples in CI: the same commit always meets the same geometries.
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_report_header(config):
    """Say what the numbers of this run depend on."""
    return [
        f"jax {jax.__version__}, JAX_DISABLE_MOST_OPTIMIZATIONS={os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS']}",
        f"{jax.default_backend()} x {jax.device_count()}, {os.cpu_count()} cores",
        f"seeds: numpy and jax fixed per test; hypothesis {'derandomized' if os.environ.get('CI') else 'random'}",
    ]


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs():
    """Every shape compiles a program; without this the whole run keeps all of them in memory."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def strict_promotion():
    """One test under strict dtype promotion: implicit mixing of dtypes raises."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def rng(request):
    """A NumPy generator; its seed is printed, so that it stands in the report of a failing test."""
    seed = 20180312
    print(f"rng seed of {request.node.name}: {seed}")
    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def shared_data():
    """The folder ../shared/data with real weights and images, which is not part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder shared/data beside the checkout is missing (real weights and images, not distributed)")
    return SHARED_DATA
