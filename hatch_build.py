"""Builds the compiled CPU kernels (jaxconv/lowering/cpu) with the package, where the machine has a C++ compiler.

Without one the package is complete but slower on CPUs: `jaxconv.native.status` says so. ``JAXCONV_BUILD_NATIVE=0``
skips the build, ``JAXCONV_BUILD_NATIVE=1`` makes its failure an error.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ("-std=c++17", "-O3", "-fPIC", "-ffp-contract=fast", "-fno-math-errno")
# The oldest instruction set first: where several objects define an inline function, the linker keeps the first one,
# which must run on every processor.
INSTRUCTION_SETS = {
    "x86": {"avx2": ("-mavx2", "-mfma"), "avx512": ("-mavx512f", "-mfma")},
    "other": {"portable": ()},
}


def compiler() -> str | None:
    """The C++ compiler: CXX, or the first of the usual names."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(name):
            return name
    return None


def build(source: Path, target: Path) -> None:
    """Compile every source for every instruction set and number format, and link them; `target` appears whole.

    What was built from the same sources, headers and compiler is left as it is.
    """
    import jaxlib

    cxx = compiler()
    if cxx is None:
        raise RuntimeError("no C++ compiler found (CXX, c++, g++, clang++)")
    stamp = target.with_suffix(".stamp")
    version = subprocess.run([cxx, "--version"], capture_output=True, text=True).stdout
    inputs = [*sorted(source.iterdir()), Path(__file__)]
    parts = [version, platform.machine(), jaxlib.__version__, *(path.read_text() for path in inputs)]
    made_of = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    if target.exists() and stamp.exists() and stamp.read_text().split()[0:2] == [made_of, digest(target)]:
        return
    stamp.unlink(missing_ok=True)
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    flags = [*FLAGS, *(["-DJAXCONV_X86"] if x86 else [])]
    headers = Path(jaxlib.__file__).parent / "include"
    with tempfile.TemporaryDirectory() as folder:
        jobs = [
            ("ffi.cc", "ffi.o", ["-isystem", str(headers), "-w"]),
            ("scratch.cc", "scratch.o", []),
        ]
        for name, options in INSTRUCTION_SETS["x86" if x86 else "other"].items():
            for number in ("float", "double"):
                defines = [f"-DJAXCONV_ISA={name}", f"-DJAXCONV_REAL={number}"]
                jobs.append(("kernels.cc", f"{name}_{number}.o", [*defines, *options]))
        objects = [str(Path(folder) / job[1]) for job in jobs]

        def run(*words: str) -> None:
            done = subprocess.run([cxx, *words], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{cxx} failed:\n{done.stderr[-2000:]}")

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            tasks = [
                pool.submit(run, *flags, *options, "-c", str(source / name), "-o", made)
                for (name, _, options), made in zip(jobs, objects)
            ]
            for task in tasks:
                task.result()
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        run("-shared", *objects, "-o", str(beside))
        os.replace(beside, target)
    # What the package holds the library against before it loads it: its bytes, and the sources that it was made of.
    stamp.write_text("\n".join([made_of, digest(target), digest(*sorted(source.iterdir()))]) + "\n")


def digest(*paths: Path) -> str:
    """SHA-256 of some files' contents, one after the other."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


class NativeBuildHook(BuildHookInterface):
    """Runs `build` before the wheel, editable or not, is put together."""

    def initialize(self, version, build_data) -> None:  # noqa: ANN001
        """Build the library into the package and mark the wheel as this platform's."""
        wanted = os.environ.get("JAXCONV_BUILD_NATIVE")
        if self.target_name != "wheel" or wanted == "0":
            return
        folder = Path(self.root) / "jaxconv" / "lowering" / "cpu"
        target = folder / "kernels.so"
        try:
            build(folder / "source", target)
        except Exception as error:
            if wanted == "1":
                raise
            self.app.display_warning(f"jaxconv's CPU kernels were not built, XLA's own operations serve: {error}")
            target.unlink(missing_ok=True)
            return
        self.app.display_info("jaxconv's CPU kernels were built")
        build_data["artifacts"] += ["jaxconv/lowering/cpu/kernels.so", "jaxconv/lowering/cpu/kernels.stamp"]
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
