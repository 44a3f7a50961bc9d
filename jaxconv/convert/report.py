"""What became of each tensor of a checkpoint and of each variable of a model."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Placement:
    """A tensor that has found its variable.

    Attributes:
        source: name in the checkpoint.
        target: dotted path of the variable.
        source_shape: shape in the checkpoint.
        target_shape: shape of the variable.
        by: "name" where the layers' names agree, "structure" where kinds, shapes and order had to do.
    """

    source: str
    target: str
    source_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    by: str

    def __str__(self) -> str:
        how = "" if self.by == "name" else "  (by structure)"
        return f"{self.source} {self.source_shape} -> {self.target} {self.target_shape}{how}"


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of matching a checkpoint with a model, whether or not anything was written.

    Attributes:
        placed: tensors with their variables.
        missing: (variable, shape it needs in the checkpoint) without a tensor.
        unexpected: (tensor, shape) without a variable.
        misshaped: (tensor, its shape, variable, shape it needs in the checkpoint).
        ignored: tensors that carry no weights (PyTorch's counters of batches).
        hints: sentences about what might be meant.
        folded: (batch normalisation, convolution that takes it in), paths in the model as its tensors were placed.

    Example:
        >>> placed = Placement("a.weight", "a.kernel", (8, 3), (3, 8), "name")
        >>> print(Report(placed=(placed,), missing=(("a.bias", (8,)),)))
        placed 1, missing 1, unexpected 0, mis-shaped 0, ignored 0
          a.weight (8, 3) -> a.kernel (3, 8)
          missing a.bias (8,)
    """

    placed: tuple[Placement, ...] = ()
    missing: tuple[tuple[str, tuple[int, ...]], ...] = ()
    unexpected: tuple[tuple[str, tuple[int, ...]], ...] = ()
    misshaped: tuple[tuple[str, tuple[int, ...], str, tuple[int, ...]], ...] = ()
    ignored: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    folded: tuple[tuple[str, str], ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every tensor has a variable and every variable a tensor."""
        return not (self.missing or self.unexpected or self.misshaped)

    def problems(self) -> list[str]:
        """One line for each tensor or variable that is left over or does not fit."""
        lines = [f"missing {name} {shape}" for name, shape in self.missing]
        lines += [f"unexpected {name} {shape}" for name, shape in self.unexpected]
        lines += [f"mis-shaped {name} {shape}: {path} needs {wanted}" for name, shape, path, wanted in self.misshaped]
        return lines

    def summary(self) -> str:
        """The counts, in one line."""
        folded = f", folded {len(self.folded)}" if self.folded else ""
        return (
            f"placed {len(self.placed)}, missing {len(self.missing)}, unexpected {len(self.unexpected)}, "
            f"mis-shaped {len(self.misshaped)}, ignored {len(self.ignored)}{folded}"
        )

    def __str__(self) -> str:
        folds = [f"fold {norm} into {conv}" for norm, conv in self.folded]
        return "\n  ".join([self.summary(), *map(str, self.placed), *self.problems(), *folds, *self.hints])

    def raise_if_failed(self, source: str) -> None:
        """Raise a ValueError that lists everything that did not match; `source` names the checkpoint."""
        if not self.ok:
            lines = "\n  ".join([*self.problems(), *self.hints])
            raise ValueError(f"{source} does not fit the model ({self.summary()}):\n  {lines}")
