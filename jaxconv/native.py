"""Whether this process has the compiled CPU kernels: `status` and `available` of `jaxconv.lowering.cpu`."""

from jaxconv.lowering.cpu import available, status

__all__ = ["available", "status"]
