"""Reading an optimised program's text: instructions, and figures of what an accelerator would do.

TPU: the compiler writes `estimated_cycles` to most instructions; their sum is its own estimate, and what has none is
named with its bytes. GPU: calls of cuDNN and cuBLAS by kind and operand type, the work they execute (zeros that were
stuffed in are multiplied, too), activations fused into convolutions, and what is left to other kernels.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

SIZES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
SIZES |= {"s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16, "f8e4m3fn": 1, "f8e5m2": 1}
# Free, or part of an asynchronous copy that runs beside other work.
FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "copy-start", "copy-done", "async-start",
    "async-update", "async-done", "slice-start", "slice-done", "after-all", "iota", "partition-id",
    "opt-barrier", "broadcast", "call", "custom-call-start", "custom-call-done",
}  # fmt: skip
_HEAD = re.compile(r"^\s+(ROOT )?%?(\S+) = ")
_ARRAY = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
        name: unique in the program.
        arrays: (type, shape) of each array of the result.
        opcode: such as fusion.
        operands: names.
        rest: attributes as they stand.
        computation: that it belongs to.
    """

    name: str
    arrays: tuple[tuple[str, tuple[int, ...]], ...]
    opcode: str
    operands: tuple[str, ...]
    rest: str
    computation: str

    @property
    def bytes(self) -> int:
        """Of the result."""
        return sum(SIZES.get(kind, 4) * math.prod(shape) for kind, shape in self.arrays)

    @property
    def target(self) -> str:
        """A custom call's name, else ""."""
        found = re.search(r'custom_call_target="([^"]*)"', self.rest)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: its instructions by name, and which computation is run first."""

    instructions: dict[str, Instruction]
    entry: str

    def top(self) -> list[Instruction]:
        """The instructions of the computation that is run first."""
        return [i for i in self.instructions.values() if i.computation == self.entry]

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """Those of an instruction, in order."""
        return [self.instructions[name] for name in instruction.operands if name in self.instructions]


def _balanced(text: str, start: int) -> int:
    """Index after the bracket that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if depth == 0:
            return i + 1
    return len(text)


def parse(text: str) -> Module:
    """A compiled program's text (`Compiled.as_text()`) as instructions."""
    found: dict[str, Instruction] = {}
    computation = entry = ""
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            head = re.match(r"(ENTRY )?%?([^\s(]+) ", line)
            if head:
                computation = head[2]
                entry = computation if head[1] else entry
            continue
        head = _HEAD.match(line)
        if head is None:
            continue
        rest = line[head.end() :]
        end = _balanced(rest, 0) if rest.startswith("(") else rest.find(" ")
        kind, rest = rest[:end], rest[end:].lstrip()
        bracket = rest.find("(")
        if bracket < 0:
            continue
        close = _balanced(rest, bracket)
        names = tuple(re.findall(r"%([^\s,()]+)", rest[bracket:close]))
        arrays = tuple((t, tuple(int(v) for v in shape.split(",") if v)) for t, shape in _ARRAY.findall(kind))
        found[head[2]] = Instruction(head[2], arrays, rest[:bracket], names, rest[close:], computation)
    return Module(found, entry)


# ----------------------------------------------------------------------------------------------------------------- TPU
def tpu_figures(text: str) -> dict[str, Any]:
    """The compiler's estimate of cycles, and the instructions without one.

    Args:
        text: of the compiled program.

    Returns:
        `cycles`; `uncounted`: how many instructions of each kind carry no estimate; `uncounted_bytes`: what these
        read and write.
    """
    module = parse(text)
    bare = [i for i in module.top() if i.opcode not in FREE and "estimated_cycles" not in i.rest]
    moved = sum(i.bytes + sum(o.bytes for o in module.operands(i)) for i in bare)
    return {
        "cycles": sum(int(v) for v in re.findall(r'"estimated_cycles":"(\d+)"', text)),
        "uncounted": dict(Counter(i.opcode for i in bare)),
        "uncounted_bytes": moved,
    }


# ----------------------------------------------------------------------------------------------------------------- GPU
@dataclasses.dataclass(frozen=True)
class Product:
    """A convolution or matrix product as it is executed.

    Attributes:
        kind: cuDNN's or cuBLAS's name of it, "fused product" inside a generated kernel, "plain convolution" where XLA
            computes it by loops.
        dtype: of the first operand.
        flop: multiplications and additions executed.
        wide: a forward convolution whose window is nearly as large as its image, along every axis longer than 4: what
            is left of a kernel gradient that cuDNN was not given as one.
    """

    kind: str
    dtype: str
    flop: int
    wide: bool = False


def products(module: Module) -> Iterator[Product]:
    """Every convolution and matrix product of a program for a GPU."""
    for i in module.instructions.values():
        target = i.target
        if i.opcode == "convolution" or target.startswith("__cudnn$conv"):
            yield _convolution(module, i, target)
        elif i.opcode == "dot":
            yield Product("fused product", _kind(module, i), _dot(module, i, _listed(i.rest, "lhs_contracting_dims")))
        elif target.startswith("__cublas$"):
            yield Product(target.removeprefix("__"), _kind(module, i), _dot(module, i, _contracted(i.rest)))


def _kind(module: Module, i: Instruction) -> str:
    return module.operands(i)[0].arrays[0][0]


def _listed(rest: str, key: str) -> list[int]:
    found = re.search(key + r"=\{([\d,]*)\}", rest)
    return [int(v) for v in found[1].split(",") if v] if found else []


def _contracted(rest: str) -> list[int]:
    found = re.search(r'"lhs_contracting_dimensions":(\[[^\]]*\])', rest)
    return [int(v) for v in json.loads(found[1])] if found else []


def _dot(module: Module, i: Instruction, contracted: Sequence[int]) -> int:
    left = module.operands(i)[0].arrays[0][1]
    return 2 * math.prod(i.arrays[0][1]) * math.prod(left[axis] for axis in contracted)


def _convolution(module: Module, i: Instruction, target: str) -> Product:
    """Work from the labels of the axes: kernel positions and channels into each output of the forward convolution."""
    kind = target.removeprefix("__cudnn$conv") if target else "plain convolution"
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.rest)
    window = re.search(r"window=\{size=([\dx]+)", i.rest)
    assert labels is not None
    a, b = (o.arrays[0][1] for o in module.operands(i)[:2])
    out = i.arrays[0][1]
    size = [int(v) for v in window[1].split("x")] if window else []
    # The three tensors of the forward convolution: image, kernel, result.
    if kind == "BackwardInput":
        image, kernel, result = out, b, a
    elif kind == "BackwardFilter":
        image, kernel, result = a, out, b
    else:
        image, kernel, result = a, b, out
    into = kernel[labels[2].index("i")]  # per group
    flop = 2 * math.prod(result) * math.prod(size) * into
    spatial = [image[axis] for axis, label in enumerate(labels[1]) if label not in "bf"]
    spread = re.search(r"rhs_dilate=([\dx]+)", i.rest)
    steps = [int(v) for v in spread[1].split("x")] if spread else [1] * len(size)
    long = [(k, (k - 1) * d + 1, n) for k, d, n in zip(size, steps, spatial, strict=False) if n > 4]
    wide = kind in ("Forward", "BiasActivationForward", "plain convolution") and bool(long)
    return Product(kind, _kind(module, i), flop, wide and all(2 * extent > n and k > 4 for k, extent, n in long))


def gpu_figures(text: str) -> dict[str, Any]:
    """What the program asks of the card's libraries, and what it leaves to generated kernels.

    Args:
        text: of the compiled program.

    Returns:
        `flop` executed by products; `calls`: how many of each kind and operand type; `float32_operands`: products that
        read float32; `fused_activations`: forward convolutions with a bias, activation or sum inside, but for
        `wide_windows`, which are kernel gradients in that form and have none; `wide_windows`: forward convolutions
        with a window of the image's size; `kernels`: what else is launched, by kind; `moved_bytes` by these.
    """
    module = parse(text)
    found = list(products(module))
    # Products are counted where they are; a kernel that holds one is not counted beside it.
    holding = {i.computation for i in module.instructions.values() if i.opcode in ("dot", "convolution")}
    skip = FREE - {"call", "broadcast", "iota"}
    rest = [
        i
        for i in module.top()
        if i.opcode not in skip
        and not i.target.startswith(("__cudnn$", "__cublas$"))
        and not any(name in holding for name in re.findall(r"calls=%?([^\s,]+)", i.rest))
    ]
    return {
        "flop": sum(p.flop for p in found),
        "calls": dict(sorted(Counter(f"{p.kind} {p.dtype}" for p in found).items())),
        "float32_operands": sum(p.dtype == "f32" for p in found),
        "fused_activations": sum(p.kind == "BiasActivationForward" and not p.wide for p in found),
        "wide_windows": sum(p.wide for p in found),
        "kernels": dict(Counter(i.opcode for i in rest)),
        "moved_bytes": sum(i.bytes + sum(o.bytes for o in module.operands(i)) for i in rest),
    }


def figures(text: str, kind: str) -> dict[str, Any]:
    """The figures of a program for a "tpu" or a "gpu"."""
    return tpu_figures(text) if kind == "tpu" else gpu_figures(text)
