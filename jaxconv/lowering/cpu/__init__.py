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
import hashlib
import os
import platform
import re
from pathlib import Path

import jax

FACES = ("apply", "adjoint", "kernel")
WITH_EPILOGUE = ("apply_then", "adjoint_then")
HALVES = ("bfloat16", "float16")  # read, added up in float32, and rounded once
DTYPES = ("float32", "float64", *HALVES)
# More axes are left to XLA.
MOST_AXES = 3
# Longer strides, dilations and pads are left to XLA: the kernels refuse what could overflow.
LARGEST = 2**24
_LIBRARY = Path(__file__).with_name("kernels.so")
_ON, _OFF = ("", "1", "true", "yes", "on", "avx2", "avx512"), ("0", "false", "no", "off")


@functools.cache
def status() -> str:
    """ "ready", or why the compiled kernels are not used in this process.

    ``JAXCONV_NATIVE=0`` (or false, no, off) in the environment, before jaxconv is imported, switches them off;
    ``JAXCONV_NATIVE=avx2`` leaves AVX-512 unused and ``JAXCONV_NATIVE=avx512`` AMX, for comparisons.
    """
    setting = os.environ.get("JAXCONV_NATIVE", "")
    if setting.strip().lower() in _OFF:
        return f"switched off by JAXCONV_NATIVE={setting}"
    if setting.strip().lower() not in _ON:
        words = "on (1, true, yes, on, avx2, avx512) nor off (0, false, no, off)"
        return f"switched off: JAXCONV_NATIVE={setting} is neither {words}"
    if not _LIBRARY.exists():
        if platform.system() == "Windows":
            return "not built: there are no compiled kernels for Windows; XLA's own operations serve"
        return (
            "not built: this is the wheel without compiled kernels, or installing jaxconv from its sources found no C++"
            " compiler, or JAXCONV_BUILD_NATIVE=0 in the environment; XLA's own operations serve"
        )
    try:
        if fault := _fault():
            return fault
        library = ctypes.CDLL(str(_LIBRARY))
        if not library.jaxconv_supported():
            return "this processor has no AVX2"
        built, here = library.jaxconv_interface(), _interface()
        # jax registers targets late and would lose its CPU backend over one that it refuses: ask before.
        if built // 1000 != here // 1000 or built > here:
            return f"built for a newer jaxlib than this one (interface {built}, not {here}): reinstall jaxconv"
        for face in (*FACES, *WITH_EPILOGUE):
            for dtype in DTYPES:
                handler = getattr(library, f"jaxconv_{face}_{dtype}")
                jax.ffi.register_ffi_target(target(face, dtype), jax.ffi.pycapsule(handler), platform="cpu")
    except Exception as error:  # built for another processor, or against an interface this jaxlib does not speak
        return f"built, but not loaded: {error}"
    return "ready"


def _fault() -> str | None:
    """Why the library is not the one that was built here: loading a truncated one would end the process."""
    stamp = _LIBRARY.with_suffix(".stamp")
    words = stamp.read_text().split() if stamp.is_file() else []
    if len(words) != 3:
        return f"not checked: {stamp} does not say what the library has to be; reinstall jaxconv"
    if words[1] != _digest():
        return f"damaged: {_LIBRARY} is not as it was built; reinstall jaxconv"
    sources = sorted(_LIBRARY.with_name("source").glob("*"))
    if sources and words[2] != hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest():
        return f"stale: {_LIBRARY} was built from other sources than those beside it; reinstall jaxconv"
    return None


@functools.cache
def _digest() -> str:
    return hashlib.sha256(_LIBRARY.read_bytes()).hexdigest()


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


def instructions() -> str | None:
    """The instruction set of the kernels that run in this process, as "AVX-512"; None where there are none."""
    if not available():
        return None
    said = ctypes.CDLL(str(_LIBRARY)).jaxconv_instructions
    said.restype = ctypes.c_char_p
    return said().decode()


def target(face: str, dtype: str) -> str:
    """Name under which XLA knows the kernel of a face.

    It ends with a digest of the library: a program that was compiled for another one, and kept in a cache or a file,
    is not found or is refused rather than run with kernels that it was not made for.
    """
    return f"jaxconv_{face}_{dtype}_{_digest()[:12]}"
