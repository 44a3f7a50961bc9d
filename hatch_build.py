"""Builds the compiled CPU kernels (jaxconv/lowering/cpu) with the package, where the machine has a C++ compiler.

Without one the package is complete but slower on CPUs: `jaxconv.native.status` says so. ``JAXCONV_BUILD_NATIVE=0``
skips the build, ``JAXCONV_BUILD_NATIVE=1`` makes its failure an error. The kernels are for the machine that the
compiler compiles for, and so is the wheel's tag: ``CXX=aarch64-linux-gnu-g++`` makes a wheel for arm64. CXX may have
options, and ARCHFLAGS and MACOSX_DEPLOYMENT_TARGET mean what they mean to setuptools.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ("-std=c++17", "-O3", "-fPIC", "-pthread", "-ffp-contract=fast", "-fno-math-errno")
# By the macro that compilers for a machine define. The oldest instruction set first: where several objects define an
# inline function, the linker keeps the first one, which must run on every processor.
INSTRUCTION_SETS = {
    "__x86_64__": {
        "avx2": ("-mavx2", "-mfma", "-mf16c"),
        "avx512": ("-mavx512f", "-mfma", "-mf16c"),
        "avx512bf16": ("-mavx512f", "-mavx512bw", "-mavx512bf16", "-mfma", "-mf16c"),
    },
    # GCC would load a loop's numbers early, into the registers that hold the tile.
    "__aarch64__": {"neon": ("-fno-schedule-insns",)},
}
# What is computed in, by what lies in memory.
NUMBERS = {"float": "float", "double": "double", "Bfloat16": "float", "Float16": "float"}
# Instruction sets for some of the formats only. Half precision takes AVX2's kernels where there are no products for it:
# a sixth of the library each, for few processors. What compilers before GCC 10 do not know is left out.
ONLY = {"avx512": ("float", "double"), "avx512bf16": ("Bfloat16",)}
# What a set has besides, where the compiler knows it: these kernels ask the processor before they use it.
BESIDES = {"avx512bf16": ("-mamx-tile", "-mamx-bf16")}
OLDEST_MACOS = "11.0"


class Target(NamedTuple):
    """What a compiler compiles for."""

    instruction_sets: dict[str, tuple[str, ...]]
    compile: tuple[str, ...]  # options of its own
    link: tuple[str, ...]
    platform: str  # of the wheel's tag


def compiler() -> list[str] | None:
    """The C++ compiler and its options: CXX, or the first of the usual names."""
    for words in (shlex.split(os.environ.get("CXX", "")), ["c++"], ["g++"], ["clang++"]):
        if words and shutil.which(words[0]):
            return words + shlex.split(os.environ.get("ARCHFLAGS", ""))
    return None


def target_of(macros: set[str]) -> Target:
    """What a compiler that predefines `macros` compiles for."""
    if "_WIN32" in macros:
        raise RuntimeError("there are no kernels for Windows")
    machine = next((name for name in INSTRUCTION_SETS if name in macros), None)
    sets = INSTRUCTION_SETS[machine] if machine else {"portable": ()}
    if "__APPLE__" in macros:
        oldest = os.environ.get("MACOSX_DEPLOYMENT_TARGET", OLDEST_MACOS)
        arch = "arm64" if machine == "__aarch64__" else "x86_64"
        return Target(sets, (f"-mmacosx-version-min={oldest}",), (), f"macosx_{oldest.split('.')[0]}_0_{arch}")
    # A symbol that nobody has is found here, not when the library is loaded; and without the compiler's symbols.
    link = ("-Wl,-z,defs", "-s")
    if "__linux__" in macros and machine:
        return Target(sets, (), link, f"linux_{machine.strip('_')}")
    return Target(sets, (), link, sysconfig.get_platform().replace("-", "_").replace(".", "_"))


def build(source: Path, target: Path) -> str:
    """Compile every source for every instruction set and number format, and link them; `target` appears whole.

    What was built from the same sources, headers and compiler is left as it is. Returns the platform it is for.
    """
    import jaxlib

    cxx = compiler()
    if cxx is None:
        raise RuntimeError("no C++ compiler found (CXX, c++, g++, clang++)")

    def run(*words: str) -> str:
        done = subprocess.run([*cxx, *words], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(cxx)} failed:\n{done.stderr[-2000:]}")
        return done.stdout

    defined = run("-dM", "-E", "-x", "c++", os.devnull)  # the version is among them
    goal = target_of({line.split()[1] for line in defined.splitlines() if line.startswith("#define ")})
    stamp = target.with_suffix(".stamp")
    inputs = [*sorted(source.iterdir()), Path(__file__)]
    parts = [shlex.join(cxx), defined, repr(goal), jaxlib.__version__, *(path.read_text() for path in inputs)]
    made_of = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    if target.exists() and stamp.exists() and stamp.read_text().split()[0:2] == [made_of, digest(target)]:
        return goal.platform
    stamp.unlink(missing_ok=True)
    headers = Path(jaxlib.__file__).parent / "include"
    with tempfile.TemporaryDirectory() as folder:
        sets = {k: v for k, v in goal.instruction_sets.items() if knows(cxx, v)}
        sets = {k: v + BESIDES[k] if k in BESIDES and knows(cxx, v + BESIDES[k]) else v for k, v in sets.items()}
        jobs = [
            ("ffi.cc", "ffi.o", ["-isystem", str(headers), "-w", *(f"-DJAXCONV_HAS_{name}" for name in sets)]),
            ("scratch.cc", "scratch.o", []),
        ]
        for name, options in sets.items():
            for stored in ONLY.get(name, NUMBERS):
                defines = [f"-DJAXCONV_ISA={name}", *number(stored)]
                jobs.append(("kernels.cc", f"{name}_{stored}.o", [*defines, *options]))
        objects = [str(Path(folder) / job[1]) for job in jobs]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            tasks = [
                pool.submit(run, *FLAGS, *goal.compile, *options, "-c", str(source / name), "-o", made)
                for (name, _, options), made in zip(jobs, objects)
            ]
            for task in tasks:
                task.result()
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        run("-shared", "-pthread", *goal.compile, *goal.link, *objects, "-o", str(beside))
        os.replace(beside, target)
    # What the package holds the library against before it loads it: its bytes, and the sources that it was made of.
    stamp.write_text("\n".join([made_of, digest(target), digest(*sorted(source.iterdir()))]) + "\n")
    return goal.platform


def knows(cxx: list[str], options: tuple[str, ...]) -> bool:
    """Whether the compiler takes these options."""
    words = [*cxx, *options, "-E", "-x", "c++", os.devnull]
    return subprocess.run(words, capture_output=True).returncode == 0


def number(stored: str) -> list[str]:
    """Options that choose the number format."""
    real = NUMBERS[stored]
    return [f"-DJAXCONV_REAL={real}", *([f"-DJAXCONV_STORED={stored}"] if stored != real else [])]


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
            platform = build(folder / "source", target)
        except Exception as error:
            if wanted == "1":
                raise
            self.app.display_warning(f"jaxconv's CPU kernels were not built, XLA's own operations serve: {error}")
            target.unlink(missing_ok=True)
            return
        self.app.display_info("jaxconv's CPU kernels were built")
        build_data["artifacts"] += ["jaxconv/lowering/cpu/kernels.so", "jaxconv/lowering/cpu/kernels.stamp"]
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
