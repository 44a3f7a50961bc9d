"""Compiling a whole table for an accelerator, in processes that can be stopped."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxconv.benchmark import backends, cases, networks, programs
from jaxconv.benchmark.report import write_json
from jaxconv.offline import table
from jaxconv.offline.devices import Target, read_target

# Seconds until a compiler has to have answered at all.
START = 120.0
WHAT = ("layers", "inner", "random", "networks", "models", "neighbours")


class Worker:
    """One process of `jaxconv.offline.worker`, started anew after it had to be stopped."""

    def __init__(self, target: Target, python: str, limit: float):
        self.target, self.python, self.limit = target, python, limit
        self.process: subprocess.Popen | None = None
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.reader: threading.Thread | None = None

    def start(self) -> None:
        """Start the process and wait until its compiler is there.

        Raises:
            ModuleNotFoundError, ValueError: it is not, or does not know the target.
        """
        package = str(pathlib.Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        self.lines = queue.Queue()
        self.process = subprocess.Popen(
            [self.python, "-m", "jaxconv.offline.worker", self.target.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, **self.target.environment, "PYTHONPATH": path},
        )  # fmt: skip
        self.reader = threading.Thread(target=self._read, args=(self.process, self.lines), daemon=True)
        self.reader.start()
        said = self._next(START)
        if "failed" in said:
            self.stop()
            raise (ModuleNotFoundError if "pip install" in said["failed"] else ValueError)(said["failed"])

    @staticmethod
    def _read(process: subprocess.Popen, lines: queue.Queue) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                lines.put(line)
        lines.put(None)

    def _next(self, seconds: float) -> dict[str, Any]:
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            self.stop()
            return {"failed": f"not compiled within {seconds:.0f} s"}
        if line is None:
            code = self.process.wait() if self.process else None
            self.stop()
            return {"failed": f"the compiler's process ended with {code}"}
        return json.loads(line)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request, within the limit."""
        if self.process is None:
            self.start()
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._next(self.limit)

    def stop(self) -> None:
        """End the process, where it has not ended."""
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None:
            process.kill()
        with contextlib.suppress(BrokenPipeError):
            if process.stdin is not None:
                process.stdin.close()
        process.wait()
        if self.reader is not None:
            self.reader.join()


def answers(
    requests: Sequence[dict[str, Any]], target: Target, *, python: str, limit: float, workers: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(index of the request, its answer) as they come, from several processes.

    Raises:
        ModuleNotFoundError: the compiler is not installed.
        ValueError: it does not know the target.
    """
    first = Worker(target, python, limit)
    first.start()
    rest: queue.SimpleQueue[int] = queue.SimpleQueue()
    for i in range(len(requests)):
        rest.put(i)
    done: queue.SimpleQueue[tuple[int, dict[str, Any]] | None] = queue.SimpleQueue()
    crew = [first, *(Worker(target, python, limit) for _ in range(min(workers, len(requests)) - 1))]

    def work(worker: Worker) -> None:
        try:
            while True:
                try:
                    i = rest.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((i, worker.ask(requests[i])))
                except (OSError, ValueError, ModuleNotFoundError) as error:
                    done.put((i, {"failed": str(error)}))
                    worker.stop()
        finally:
            worker.stop()
            done.put(None)

    with concurrent.futures.ThreadPoolExecutor(len(crew)) as pool:
        for worker in crew:
            pool.submit(work, worker)
        ended = 0
        try:
            while ended < len(crew):
                item = done.get()
                ended += item is None
                if item is not None:
                    yield item
        finally:
            while not rest.empty():
                rest.get_nowait()
            for worker in crew:
                worker.stop()


def requests_of(
    what: Sequence[str], dtype: str, named: Sequence[str] = (), random: int = 12, seed: int = 0, batch_factor: int = 1
) -> list[dict[str, Any]]:
    """Requests for layers of the registry, random ones, networks (at the sizes for a GPU), models and neighbours.

    Args:
        what: from layers, inner (the same between elementwise products, as in a network), random, networks, models
            (training steps of the registered ones), neighbours.
        dtype: of all operands.
        named: parts of names; none means all.
        random: how many random layers.
        seed: of these.
        batch_factor: multiplies every layer's and model's batch.

    Returns:
        One request a task and contender.

    Raises:
        ValueError: no such thing, or no such name.
    """
    if unknown := set(what) - set(WHAT):
        raise ValueError(f"there is no {sorted(unknown)}; there are {', '.join(WHAT)}")
    out: list[dict[str, Any]] = []
    layers = [("layer", layer) for layer in cases.REAL * ("layers" in what)]
    layers += [("inner layer", layer) for layer in cases.REAL * ("inner" in what)]
    layers += [("layer", layer) for layer in cases.random_layers(random, seed) * ("random" in what)]
    for kind, layer in layers:
        fields = dataclasses.asdict(cases.scaled(layer, batch_factor))
        out += [
            {"kind": kind, "name": layer.name, "layer": fields, "task": task, "contender": who}
            for task in programs.FACES
            for who in programs.CONTENDERS
        ]
    nets = [("network", net, task) for net in networks.ON_GPU * ("networks" in what) for task in backends.TASKS]
    if "models" in what:
        nets += [("model", networks.scaled(net, batch_factor), backends.TASKS[0]) for net in networks.ON_CPU]
    for kind, net, task in nets:
        out += [
            {"kind": kind, "name": net.name, "network": dataclasses.asdict(net), "task": task, "contender": who}
            for who in programs.CONTENDERS
        ]
    operations = programs.neighbours() if "neighbours" in what else ()
    for program in programs.neighbour_programs(operations, dtype):
        out.append({"kind": "neighbour", "name": program.what, "task": program.task, "contender": program.contender})
    out = [request for request in out if not named or any(n.lower() in request["name"].lower() for n in named)]
    if not out:
        raise ValueError(f"nothing among {', '.join(what)} has any of {list(named)} in its name")
    return [{**request, "dtype": dtype} for request in out]


def function_requests(what: str, shape: Sequence[int] | None, dtype: str) -> list[dict[str, Any]]:
    """Requests for a user's function: itself and its gradient, as it is and accelerated."""
    return [
        {"kind": "function", "name": what, "what": what, "shape": None if shape is None else list(shape),
         "task": task, "contender": who, "dtype": dtype}
        for task in ("forward", "gradient")
        for who in ("yours", "accelerate")
    ]  # fmt: skip


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    """What the contenders of a row share; a network and a model may have one name."""
    return row["kind"], row["what"], row["task"]


def _earlier(out: pathlib.Path | None, settings: dict[str, Any]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Rows of a record that was made with the same settings."""
    if out is None or not pathlib.Path(out).exists():
        return {}
    record = json.loads(pathlib.Path(out).read_text("utf-8"))
    if any(record.get(key) != value for key, value in settings.items()):
        raise ValueError(f"{out} is a record of other settings: move it away, or give another --out")
    return {_key(row): row for row in record["rows"]}


def compile_for(
    name: str,
    what: Sequence[str] = ("layers", "networks"),
    *,
    function: str | None = None,
    shape: Sequence[int] | None = None,
    named: Sequence[str] = (),
    contenders: Sequence[str] = programs.CONTENDERS,
    dtype: str = "bfloat16",
    random: int = 12,
    seed: int = 0,
    batch_factor: int = 1,
    limit: float = 240.0,
    workers: int = 1,
    python: str | None = None,
    out: pathlib.Path | None = None,
    show: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Compile layers, networks or a function for an accelerator that need not be here, and read the programs.

    Args:
        name: the accelerator, such as v5e:2x2 or h100; see `read_target`.
        what: from layers, inner (the same between elementwise products, as in a network), random, networks, models
            (training steps of the registered ones), neighbours.
        function: MODULE:NAME or FILE.py:NAME instead, as `jaxconv explain` takes it.
        shape: of its image.
        named: only what has one of these in its name.
        contenders: from jaxconv, accelerate, lax; of a function it is always both, as it is and accelerated.
        dtype: of all operands.
        random: how many random layers.
        seed: of these.
        batch_factor: multiplies every layer's and model's batch.
        limit: seconds that one program may take.
        workers: processes that compile side by side.
        python: interpreter that has the compiler, where it is another one.
        out: JSON file to write, as rows come; what an earlier run with the same settings left there stays, unless it
            is compiled again.
        show: called with each line of progress.

    Returns:
        The record: what was compiled by, and one row a task with the figures of every contender.

    Raises:
        ValueError: an unknown accelerator, or nothing to compile.
        ModuleNotFoundError: the accelerator's compiler is not installed; the message has the line that installs it.
    """
    target = read_target(name)
    wanted = python or sys.executable
    if python is None and (absent := target.missing()) is not None:
        raise ModuleNotFoundError(absent)
    if function is not None:
        requests = function_requests(function, shape, dtype)
    else:
        requests = requests_of(what, dtype, named, random, seed, batch_factor)
        if unknown := set(contenders) - set(programs.CONTENDERS):
            raise ValueError(f"unknown contenders {sorted(unknown)}; there are {', '.join(programs.CONTENDERS)}")
        requests = [request for request in requests if request["contender"] in contenders]
    record: dict[str, Any] = {
        "target": name, "kind": target.kind, "dtype": dtype, "seed": seed, "batch_factor": batch_factor,
    }  # fmt: skip
    rows = _earlier(out, record)
    record |= {"date": time.strftime("%Y-%m-%d"), "limit": limit, "rows": list(rows.values())}
    waiting: dict[tuple[str, ...], int] = {}
    fresh: dict[tuple[str, ...], dict[str, Any]] = {}
    keys = []
    for request in requests:
        row = {"what": request["name"], "task": request["task"], "kind": request["kind"], "contenders": {}}
        if "network" in request:
            row["shape"] = request["network"]["shape"]
        keys.append(_key(row))
        fresh.setdefault(keys[-1], row)
        waiting[keys[-1]] = waiting.get(keys[-1], 0) + 1
    order = dict.fromkeys([*rows, *keys])
    for i, found in answers(requests, target, python=wanted, limit=limit, workers=workers):
        key = keys[i]
        fresh[key]["contenders"][requests[i]["contender"]] = found
        waiting[key] -= 1
        if not waiting[key]:  # an earlier row stays until the new one is whole
            before = rows[key]["contenders"] if key in rows else {}
            rows[key] = fresh[key] | {"contenders": before | fresh[key]["contenders"]}
            show(table.line(rows[key], target.kind))
            record["rows"] = [rows[key] for key in order if key in rows]
            if out is not None:
                write_json(pathlib.Path(out), record)
    return record
