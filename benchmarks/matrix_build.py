"""Build the matrix of one convolution by several routes: time, entries and memory of each.

    python benchmarks/matrix_build.py --size 512 --kernel 3

Routes: `jaxconv.conv_matrix` compiled and not, scipy.sparse with its index arrays written by hand for this one case
(stride 1, one channel, zero padding), PyLops' Convolve2D where it is installed (which has no explicit entries: its
matrix is found by applying it to unit vectors), and probing the convolution with unit vectors. Probing is quadratic, so
those two run at --probe-size.
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

import jaxconv as jc


def by_hand(w, n):
    """scipy.sparse for a square image of side n: one shifted block of ones times a weight per tap."""
    k = w.shape[0]
    total = scipy.sparse.csr_array((n * n, n * n), dtype=w.dtype)
    for a in range(k):
        for b in range(k):
            rows = scipy.sparse.diags_array(np.ones(n, w.dtype), offsets=a - k // 2, shape=(n, n))
            columns = scipy.sparse.diags_array(np.ones(n, w.dtype), offsets=b - k // 2, shape=(n, n))
            total = total + scipy.sparse.kron(rows * w[a, b], columns, format="csr")
    return total


def by_probing(apply, n):
    """The matrix column by column, from unit vectors in batches."""
    units = np.eye(n * n, dtype=np.float32).reshape(-1, n, n)
    columns = [np.asarray(apply(batch)).reshape(len(batch), -1) for batch in np.array_split(units, max(1, n // 16))]
    return scipy.sparse.csr_array(np.concatenate(columns).T)


def timed(function, repeats):
    """Result and median seconds of `repeats` calls after one that is not counted."""
    result = jax.block_until_ready(function())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return result, statistics.median(seconds)


def bytes_of(matrix):
    """Bytes that a matrix holds."""
    if scipy.sparse.issparse(matrix):
        return matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
    return sum(leaf.nbytes for leaf in jax.tree.leaves(matrix))


def routes(size, kernel, probe_size):
    """(name, side, function) of every route that can run here."""
    w = np.random.default_rng(0).standard_normal((kernel, kernel)).astype(np.float32)
    ours = jnp.asarray(w)[:, :, None, None]

    def matrix(w, format):
        return jc.conv_matrix(w, (size, size), padding="SAME", format=format)

    for format in ("bcoo", "bcsr"):
        compiled = jax.jit(lambda w, format=format: matrix(w, format))
        yield f"conv_matrix {format}, compiled", size, lambda compiled=compiled: compiled(ours)
        yield f"conv_matrix {format}, not compiled", size, lambda format=format: matrix(ours, format)
    yield "conv_matrix scipy", size, lambda: matrix(ours, "scipy")
    yield "scipy by hand", size, lambda: by_hand(w, size)
    conv = jax.jit(lambda x: jc.conv(x[..., None], ours, padding="SAME"))
    yield (
        "conv_matrix scipy",
        probe_size,
        lambda: jc.conv_matrix(ours, (probe_size,) * 2, padding="SAME", format="scipy"),
    )
    yield "probing with unit vectors", probe_size, lambda: by_probing(conv, probe_size)
    try:
        import pylops
    except ImportError:
        return
    # PyLops convolves (flips the kernel); its Toeplitz matrix is found by application to the identity.
    operator = pylops.signalprocessing.Convolve2D(
        (probe_size,) * 2, w[::-1, ::-1], offset=(kernel // 2,) * 2, dtype="float32"
    )

    def dense():
        # Its Fourier route leaves rounding in every entry, which is not counted as an entry here.
        found = operator.todense()
        return scipy.sparse.csr_array(np.where(np.abs(found) > 1e-5, found, 0))

    yield "PyLops Convolve2D.todense", probe_size, dense


def main():
    """Time every route, check that those of one size agree, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="side of the image")
    parser.add_argument("--kernel", type=int, default=3, help="side of the kernel")
    parser.add_argument("--probe-size", type=int, default=48, help="side of the image for the quadratic routes")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows, reference = [], {}
    print(f"{'route':36s} {'side':>5s} {'entries':>10s} {'MB':>8s} {'seconds':>9s}")
    for name, side, function in routes(options.size, options.kernel, options.probe_size):
        matrix, seconds = timed(function, options.repeats)
        entries = matrix.nse if hasattr(matrix, "nse") else matrix.nnz
        x = np.random.default_rng(1).standard_normal(side * side).astype(np.float32)
        product = np.asarray(matrix @ x)
        difference = float(np.abs(product - reference.setdefault(side, product)).max())
        if difference > 1e-4:
            raise SystemExit(f"{name} differs from the first route by {difference}")
        rows.append(
            {"route": name, "side": side, "entries": int(entries), "bytes": bytes_of(matrix), "seconds": seconds}
        )
        print(f"{name:36s} {side:5d} {entries:10d} {bytes_of(matrix) / 1e6:8.1f} {seconds:9.4f}")
    print(json.dumps({"jax": jax.__version__, "backend": jax.default_backend(), "rows": rows}))


if __name__ == "__main__":
    main()
