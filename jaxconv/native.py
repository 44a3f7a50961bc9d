"""What compiled CPU kernels this process has (`status`, `available` and `instructions` of `jaxconv.lowering.cpu`), and
`keep_memory`, which every program with large arrays gains from on a CPU.
"""

from jaxconv._memory import keep_memory
from jaxconv.lowering.cpu import available, instructions, status

__all__ = ["available", "instructions", "keep_memory", "status"]
