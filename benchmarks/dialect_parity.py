"""Hold every name of jaxconv.dialects against its live peer, and write the table of cases and failures.

    python benchmarks/dialect_parity.py [--cases 200] [--only torch onnx lax tensorflow] [--workers 2]

Runs the parity tests by the hundred (tests/test_dialect_*_parity.py) for the peers that are installed, keeps their
counts in benchmarks/results/dialect-parity.json beside those of earlier runs for the other peers (TensorFlow has an
environment of its own), and writes docs/dialect-parity.md anew from all of them. Needs the extras test and parity.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD, PAGE = ROOT / "benchmarks" / "results" / "dialect-parity.json", ROOT / "docs" / "dialect-parity.md"
# Peer -> the packages whose versions belong into the record.
PEERS = {
    "torch": ["torch"],
    "onnx": ["onnx"],
    "lax": ["jax"],
    "tensorflow": ["tensorflow-cpu", "tensorflow"],
}
COLUMNS = ("cases", "refused", "gradients", "failures")
HEAD = """# Agreement with the peers

What `jaxconv.dialects` computes, against the living peer, on random argument sets. A case counts as refused where both
refuse it; everywhere else values agree to 1e-9 of the largest in float64 and gradients, for a random cotangent, to 1e-7
(`image_resize`, which TensorFlow computes in single precision, to 3e-6 and 1e-5; cubic `Resize`, whose coefficients
ONNX's reference rounds to single precision, to 1e-5). A failure is anything else. Gradients are compared where the peer
has one; of ONNX's reference evaluator, which has none, by central differences on every tenth case.

The seeds are fixed: the command draws the same sets again. What is not drawn, because the peer departs from its own
documentation there, is named beside the generators in `tests/test_dialect_*_parity.py`.

```bash
python benchmarks/dialect_parity.py --cases {cases}  # again with --only tensorflow in an environment that has it
```
"""


def run(peer, cases, workers):
    """Records of one peer: title -> counts by name; empty where the peer is not installed."""
    versions = {}
    for package in ["jax", *PEERS[peer]]:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if not any(package in versions for package in PEERS[peer]):
        print(f"{peer} is not installed: its earlier counts stay")
        return None
    with tempfile.TemporaryDirectory() as folder:
        test = f"tests/test_dialect_{peer}_parity.py"
        select = ["-m", "slow", "-k", "random_argument_sets"]
        env = {**os.environ, "JAXCONV_PARITY_CASES": str(cases), "JAXCONV_PARITY_RECORDS": folder}
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(workers), *select, test]
        done = subprocess.run(command, cwd=ROOT, env=env, check=False)
        records = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
    if not records or done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    rows = {name: row for record in records for name, row in record["rows"].items()}
    worst = {key: max(record["worst"][key] for record in records) for key in ("value", "gradient")}
    return {"versions": versions, "cases": cases, "rows": rows, "worst": worst}


def page(results):
    """The Markdown of docs/dialect-parity.md."""
    lines = [HEAD.format(cases=max(result["cases"] for result in results.values()))]
    for peer in (peer for peer in PEERS if peer in results):
        result = results[peer]
        versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        worst = result["worst"]
        lines += [f"## {peer}", ""]
        lines += [
            f"With {versions}. Largest error: values {worst['value']:.0e}, gradients {worst['gradient']:.0e}.",
            "",
        ]
        lines += ["| name | cases | refused by both | gradients | failures |", "|---|--:|--:|--:|--:|"]
        lines += [
            f"| `{n}` | {' | '.join(str(row[c]) for c in COLUMNS)} |" for n, row in sorted(result["rows"].items())
        ]
        total = {column: sum(row[column] for row in result["rows"].values()) for column in COLUMNS}
        lines += [f"| all | {' | '.join(str(total[c]) for c in COLUMNS)} |", ""]
    return "\n".join(lines).rstrip() + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200, help="argument sets for each name")
    parser.add_argument("--only", nargs="+", choices=list(PEERS), default=list(PEERS), help="peers to run")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    results = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    for peer in arguments.only:
        result = run(peer, arguments.cases, arguments.workers)
        if result is not None:
            results[peer] = result
            RECORD.write_text(json.dumps(results, indent=1) + "\n")
            PAGE.write_text(page(results))


if __name__ == "__main__":
    main()
