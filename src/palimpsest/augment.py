"""Another view of a picture: shifted and noisy, as a function of the row and a draw.

Roles(adapter, {"task": rows}, answers={"view": Derived("task", Augment(shift=1, noise=0.1))})
roles: {view: {augment: {shift: 1, noise: 0.1}, of: task}}                       # the same in a recipe
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.audit import Row

__all__ = ["Augment"]


@dataclass(frozen=True)
class Augment:
    """Shifts by up to ``shift`` pixels each way, 0 coming in, and adds noise of standard deviation ``noise``.

    ``inputs`` is [..., H, W], or one square picture in a row, [H * H].
    """

    shift: int = 0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.shift < 0 or not (math.isfinite(self.noise) and self.noise >= 0):
            raise ValueError(f"shift and noise must not be negative, but are {self.shift} and {self.noise}")

    def __call__(self, row: Row, draw: int) -> Row:
        """The row with other ``inputs``; the same for the same ``draw``."""
        if "inputs" not in row:
            raise ValueError(f"A row with the columns {sorted(map(str, row))} is no picture; give it inputs.")
        generator = torch.Generator().manual_seed(draw)
        inputs = torch.as_tensor(row["inputs"])
        inputs = inputs if inputs.is_floating_point() else inputs.float()
        if self.shift:
            inputs = self._shifted(inputs, generator)
        if self.noise:
            inputs = inputs + self.noise * torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype)
        return {**row, "inputs": inputs}

    def _shifted(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        side = math.isqrt(inputs.numel())
        if inputs.ndim == 1 and side * side != len(inputs):
            raise ValueError(f"Inputs of {len(inputs)} values are no square picture; shape them [H, W].")
        picture = inputs.view(side, side) if inputs.ndim == 1 else inputs
        height, width = picture.shape[-2:]
        down, right = torch.randint(2 * self.shift + 1, (2,), generator=generator).tolist()
        padded = F.pad(picture, [self.shift] * 4)
        return padded[..., down : down + height, right : right + width].reshape(inputs.shape)
