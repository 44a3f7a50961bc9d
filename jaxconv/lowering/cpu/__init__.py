"""The three faces as compiled CPU kernels, called through XLA's foreign function interface.

XLA's CPU backend has one fast convolution (plain, two-dimensional, dense) and falls back to loops or to zero-stuffed
inputs elsewhere; lowerings made of its other operations pay for copies. The kernels under ``source/`` read pixels where
they lie instead: every result position gathers, tap by tap, its operand's pixels times that tap's matrix, held in
registers. Nothing is padded, stuffed or unrolled, so all strides, dilations, groups and ranks up to three run at the
rate of a matrix product.

The library is built with the package where a C++ compiler is found (``hatch_build.py``). Without it, on another
processor, on several devices or for export, the lowerings made of XLA's own operations serve: see
[`status`][jaxconv.native.status].
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from pathlib import Path

import jax

FACES = ("apply", "adjoint", "kernel")
DTYPES = ("float32", "float64")
# More axes are left to XLA.
MOST_AXES = 3


@functools.cache
def status() -> str:
    """ "ready", or why the compiled kernels are not used in this process.

    ``JAXCONV_NATIVE=0`` in the environment, before the first convolution, switches them off.
    """
    if os.environ.get("JAXCONV_NATIVE", "1") == "0":
        return "switched off by JAXCONV_NATIVE=0"
    path = Path(__file__).with_name("kernels.so")
    if not path.exists():
        return "not built: installing jaxconv found no C++ compiler"
    try:
        library = ctypes.CDLL(str(path))
        if not library.jaxconv_supported():
            return "this processor has no AVX2"
        built, here = library.jaxconv_interface(), _interface()
        # jax registers targets late and would lose its CPU backend over one that it refuses: ask before.
        if built // 1000 != here // 1000 or built > here:
            return f"built for a newer jaxlib than this one (interface {built}, not {here}): reinstall jaxconv"
        for face in FACES:
            for dtype in DTYPES:
                handler = getattr(library, f"{target(face, dtype)}")
                jax.ffi.register_ffi_target(target(face, dtype), jax.ffi.pycapsule(handler), platform="cpu")
    except Exception as error:  # built for another processor, or against an interface this jaxlib does not speak
        return f"built, but not loaded: {error}"
    return "ready"


def _interface() -> int:
    """The foreign function interface of this jaxlib, as its headers say: 1000 * major + minor."""
    header = (Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h").read_text()
    major, minor = (
        int(re.search(rf"#define XLA_FFI_API_{part} (\d+)", header)[1])  # type: ignore[index]
        for part in ("MAJOR", "MINOR")
    )
    return 1000 * major + minor


def available() -> bool:
    """Whether the compiled kernels can be called in this process."""
    return status() == "ready"


def target(face: str, dtype: str) -> str:
    """Name under which XLA knows the kernel of a face."""
    return f"jaxconv_{face}_{dtype}"
