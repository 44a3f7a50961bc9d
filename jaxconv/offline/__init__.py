"""Programs compiled for accelerators that this machine does not have, and what their compilers say of them.

XLA compiles for a named GPU or TPU slice on any Linux machine (`jax.experimental.topologies`). What comes out is a
program that cannot run here, but can be read: the cycles that the TPU's compiler expects, the library calls that the
GPU's makes, the work they execute, the memory they take.
"""

from jaxconv.offline.devices import Target, read_target
from jaxconv.offline.run import compile_for

__all__ = ["Target", "compile_for", "read_target"]
