"""What compiled CPU kernels this process has: `status`, `available` and `instructions` of `jaxconv.lowering.cpu`."""

from jaxconv.lowering.cpu import available, instructions, status

__all__ = ["available", "instructions", "status"]
