"""Lets only those weights move that the forget set's loss depends on most.

    G = sum over forget items i of grad(-log p(y_i | x_i)) at the weights as they are
    moves = 1 for the floor(fraction * N) largest |G| over all N trainable weights together, else 0

The mask is made once and does not depend on the objective trained under it: with random labels it is SalUn.

Paper: SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image Classification and
    Generation (Fan et al., 2023), arXiv 2310.12508, equations 2 and 3.
Code: OPTML-Group/Unlearn-Saliency (Classification/generate_mask.py).
Tags: forget, unlearning, mask, classifier, language-model.
Needs: nothing; one forward and backward pass over the forget set.
Differs: the released code adds up the gradients of batch means, so the items of a short last batch weigh more; here
    every item (and every scored token of a text) weighs the same, whatever the batch. The ranking is exact, and of
    equal gradients the one that comes first in the model wins. What the mask freezes stays bit for bit where it was,
    as in the latest release; earlier ones masked only the gradient, and weight decay and momentum leaked. Buffers are
    not weights: running statistics of batch normalization still follow the data in train mode.
See: ``random_label`` on forget and ``cross_entropy`` on retain, which make it SalUn.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palimpsest.mask import Mask
from palimpsest.reference import evaluating
from palimpsest.roles import Roles

__all__ = ["METHOD", "SalUn", "each_gradient", "require_role", "top_fraction"]

_SAMPLE = 1 << 20
"""About how many entries are looked at to guess where the threshold lies."""


def top_fraction(gradients: Mapping[str, Tensor], fraction: float) -> dict[str, Tensor]:
    """Name -> bool tensor of the same shape; exactly int(fraction * N) are true, the largest |g| of all tensors.

    Of equal values the first in order of names, then of positions, is taken.  ``fraction`` lies in [0, 1].
    Raises ``ValueError`` for a fraction outside that, and for a gradient that is not finite.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"The fraction of weights that move lies in [0, 1], not {fraction}.")
    for name, gradient in gradients.items():
        if not bool(torch.isfinite(gradient).all()):
            raise ValueError(
                f"The gradient of {name} is not finite, so weights cannot be ranked; check the forget rows and the "
                "model."
            )
    wide = torch.float64 if any(g.dtype == torch.float64 for g in gradients.values()) else torch.float32
    threshold, ties = _threshold(gradients, int(fraction * sum(g.numel() for g in gradients.values())), wide)
    chosen = {}
    for name, gradient in gradients.items():
        magnitude = _magnitude(gradient, wide)
        moves = magnitude > threshold
        if ties:
            equal = (magnitude == threshold).nonzero().flatten()[:ties]
            moves[equal] = True
            ties -= len(equal)
        chosen[name] = moves.view(gradient.shape)
    return chosen


def _magnitude(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    return gradient.detach().to(dtype).abs().flatten()


def _threshold(gradients: Mapping[str, Tensor], count: int, dtype: torch.dtype) -> tuple[float, int]:
    """The ``count``-th largest |g|, and how many entries equal to it are among the ``count`` largest.

    A sample brackets the threshold, and only what lies inside the bracket is sorted: exact, without a copy of the
    whole.  Should the sample mislead, everything is inside.
    """
    if count == 0:
        return math.inf, 0
    total = sum(g.numel() for g in gradients.values())
    stride = max(1, total // _SAMPLE)
    sample = torch.cat([_magnitude(g.detach().flatten()[::stride], dtype) for g in gradients.values()]).sort().values
    place, margin = int((1 - count / total) * len(sample)), 3 * math.isqrt(len(sample))
    low = float(sample[place - margin]) if place >= margin else 0.0
    high = float(sample[place + margin]) if place + margin < len(sample) else math.inf
    for least, most in ((low, high), (0.0, math.inf)):
        above, found = 0, []
        for gradient in gradients.values():
            magnitude = _magnitude(gradient, dtype)
            above += int((magnitude > most).sum())
            found.append(magnitude[(magnitude >= least) & (magnitude <= most)])
        inside = torch.cat(found)
        needed = count - above
        if 1 <= needed <= len(inside):
            break
    threshold = inside.kthvalue(len(inside) - needed + 1).values
    return float(threshold), needed - int((inside > threshold).sum())


@contextlib.contextmanager
def each_gradient(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], use: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Every backward pass inside hands each gradient of ``parameters`` to ``use`` and frees it at once.

    Only these parameters get one, frozen or not; the model's gradients and ``requires_grad`` are as before afterwards.
    """
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    wanted = {id(p): name for name, p in parameters.items()}

    def hand_over(parameter: Tensor) -> None:
        assert parameter.grad is not None
        use(wanted[id(parameter)], parameter.grad)
        parameter.grad = None

    handles = []
    try:
        for parameter, _, _ in before:
            parameter.grad = None
            parameter.requires_grad_(id(parameter) in wanted)
            if id(parameter) in wanted:
                handles.append(parameter.register_post_accumulate_grad_hook(hand_over))  # type: ignore[no-untyped-call]
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, required, gradient in before:
            parameter.requires_grad_(required)
            parameter.grad = gradient


def require_role(roles: Roles, role: str, method: str) -> None:
    """Raises ``ValueError`` unless ``role`` has rows of its own."""
    if role not in roles or role in roles.answers:
        there = ", ".join(r for r in roles if r not in roles.answers)
        raise ValueError(
            f"{method} measures gradients on the role {role!r}, but the roles with rows are: {there}; name one of them."
        )


@dataclass(frozen=True)
class SalUn:
    """``fraction`` in [0, 1] of the trainable weights may move; ``batch`` rows a pass, which changes only the speed."""

    fraction: float = 0.5
    role: str = "forget"
    batch: int = 32

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction lies in [0, 1], not {self.fraction}.")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, not {self.batch}.")

    def __call__(self, model: nn.Module, roles: Roles) -> Mask:
        """Ranks the trainable weights as they are now; the model is left alone."""
        require_role(roles, self.role, "SalUn")
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not trainable:
            raise ValueError("SalUn found no trainable parameter to rank; unfreeze some or attach an adapter.")
        total = {n: p.detach().new_zeros(p.shape, dtype=_accumulator(p.dtype)) for n, p in trainable.items()}
        device = next(iter(trainable.values())).device

        def add(name: str, gradient: Tensor) -> None:
            total[name] += gradient

        with evaluating(model), torch.enable_grad(), each_gradient(model, trainable, add):
            for batch in roles.in_order(self.role, self.batch):
                view = roles.adapter.views(model, batch.to(device), [self.role])[self.role]
                (-view.logp.sum()).backward()  # type: ignore[attr-defined]
        if not any(bool(g.any()) for g in total.values()):
            raise ValueError(
                f"Every gradient on the role {self.role!r} is zero, so no weight stands out; check its rows and the "
                "model."
            )
        moves = top_fraction(total, self.fraction)
        return Mask(moves, f"the {self.fraction:.0%} of the weights with the largest gradient on {self.role}")


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    """Sums of many small gradients need more digits than half precision has."""
    return torch.float64 if dtype == torch.float64 else torch.float32


METHOD = SalUn
