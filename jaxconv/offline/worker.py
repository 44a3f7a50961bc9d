"""A process that compiles what it is asked for, one request a line: `python -m jaxconv.offline.worker TARGET`.

A request is an object with `kind` (layer, inner layer, network, model, neighbour, function), `task`, `contender`,
`dtype` and what the kind needs. An answer is an object with `seconds` (to trace, in all), `temporary_bytes` and the
figures, or with `failed`.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from jaxconv import _compat
from jaxconv.benchmark import cases, networks, programs
from jaxconv.offline import hlo
from jaxconv.offline.devices import Target, read_target


def program_of(request: dict[str, Any]) -> programs.Program:
    """The program that a request is for.

    Raises:
        ValueError: there is none.
    """
    task, who, dtype = request["task"], request["contender"], request["dtype"]
    if request["kind"] in ("layer", "inner layer"):
        fields = {k: _tuples(v) for k, v in request["layer"].items()}
        return programs.of_layer(cases.Layer(**fields), task, who, dtype, inner=request["kind"] == "inner layer")
    if request["kind"] in ("network", "model"):
        fields = {k: _tuples(v) for k, v in request["network"].items()}
        return programs.of_network(networks.Network(**fields), task, who, dtype)
    if request["kind"] == "function":
        return _function(request)
    found = {operation.name: operation for operation in programs.neighbours()}
    program = programs.of_neighbour(found[request["name"]], task, who, dtype)
    if program is None:
        raise ValueError(f"{who} has no {request['name']}, {task}")
    return program


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _function(request: dict[str, Any]) -> programs.Program:
    """A user's function, as it is or through `accelerate`; its task "gradient" is that of its mean square."""
    import jax
    import jax.numpy as jnp

    from jaxconv._accelerate import accelerate
    from jaxconv.explain.target import resolve
    from jaxconv.jaxprs.modules import with_state

    target = resolve(request["what"], shape=request["shape"])
    pure, args = with_state(target.fn, target.args)

    def wanted(a: Any) -> Any:
        floating = jnp.issubdtype(a.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(a.shape, request["dtype"] if floating else a.dtype)

    operands = jax.tree.map(wanted, tuple(args))

    def loss(*args: Any) -> Any:
        leaves = [a for a in jax.tree.leaves(pure(*args)) if jnp.issubdtype(a.dtype, jnp.floating)]
        return sum(jnp.mean(jnp.square(a.astype(jnp.float32))) for a in leaves)

    function = pure
    if request["task"] == "gradient":
        places = tuple(
            i
            for i, a in enumerate(operands)
            if jax.tree.leaves(a) and all(jnp.issubdtype(v.dtype, jnp.floating) for v in jax.tree.leaves(a))
        )
        function = jax.value_and_grad(loss, places)
    if request["contender"] == "accelerate":
        function = accelerate(function)
    return programs.Program(target.name, request["task"], request["contender"], function, operands)


def answer(request: dict[str, Any], target: Target, sharding: Any) -> dict[str, Any]:
    """Compile and read; an error is an answer, too."""
    try:
        program = program_of(request)
        start = time.perf_counter()
        lowered = program.lower(sharding)
        traced = time.perf_counter() - start
        compiled = lowered.compile()
        seconds = time.perf_counter() - start
        memory = compiled.memory_analysis()
        return {
            "seconds": {"trace": traced, "all": seconds},
            "temporary_bytes": None if memory is None else int(memory.temp_size_in_bytes),
            "multiply_adds": program.multiply_adds,
            **hlo.figures(compiled.as_text(), target.kind),
        }
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {str(error).strip()[:300]}"}


def main() -> None:
    """Answer requests until there are no more; the first line says that the compiler is there, or why not."""
    target = read_target(sys.argv[1])
    said, sys.stdout = sys.stdout, sys.stderr  # what anything else prints is no answer

    def say(line: dict[str, Any]) -> None:
        print(json.dumps(line), file=said, flush=True)

    try:
        sharding = target.sharding()
    except (ModuleNotFoundError, ValueError) as error:
        say({"failed": str(error)})
        return
    import jax

    if target.kind == "tpu":
        (device,) = sharding.device_set
        _compat.compile_for_chip(device.device_kind)
    say({"ready": True, "versions": {"jax": jax.__version__}})
    for line in sys.stdin:
        say(answer(json.loads(line), target, sharding))


if __name__ == "__main__":
    main()
