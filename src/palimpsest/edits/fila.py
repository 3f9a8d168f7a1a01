"""Starts LoRA adapters on the weight directions that matter for the forget set and not for the rest.

    I = F_forget / (F_retain + eps),    d_i = sqrt(sum_j I_ij)
    diag(d) W = U S V^T (the r largest),    s B A = W V V^T,    W_res = W - s B A

F is the diagonal of the empirical Fisher information of each target weight W [out, in], s the adapter's scaling.
The base becomes W_res, so the model computes what it did before; training then moves A and B, that is, first of all
the directions that the forget set uses.

Paper: Towards Robust and Parameter-Efficient Knowledge Unlearning for LLMs (Cha et al., 2024), arXiv 2408.06621
    (FILA, equations 5 to 7).
Code: csm9493/efficient-llm-unlearning (TOFU/measure_importance.py, TOFU/forget.py).
Tags: forget, unlearning, weight-edit, language-model.
Needs: a peft model with a fresh LoRA adapter; one forward and backward pass over forget rows and as many retain rows.
Differs: the Fisher information is the mean over sequences of the squared gradient of the sequence's log-likelihood (a
    sum over its scored tokens), one sequence at a time in eval mode; the released code squares the gradient of a
    batch's mean loss in train mode, which depends on the batch. d is divided by its mean, which changes nothing
    mathematically. B is W V S^(-1/2), the released diag(1 / (d + eps)) U S^(1/2) without its eps: exact also for rows
    of no importance. The factors come from an exact SVD where the smaller side is at most 1024, else from a seeded
    randomized one with r + 8 probes and 6 power iterations (released: r probes, 2 iterations, no seed). A and B are
    rounded to the adapter's precision first, and W_res is computed from what they became.
See: ``inverted_hinge`` (the loss it was made for), ``cross_entropy`` on retain. The base is changed: an adapter saved
    alone does not fit the original checkpoint, so save the merged model, or this patch beside the adapter; and the
    model with its adapter off is no reference model.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from palimpsest.masks.salun import each_gradient, require_role
from palimpsest.patch import Patch
from palimpsest.reference import evaluating
from palimpsest.roles import Roles, seeded

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

__all__ = ["METHOD", "Fila", "fila_factors", "fisher_information", "relative_importance"]

EXACT_SVD_UP_TO = 1024
"""The smaller side of a matrix up to which its SVD is exact."""


def relative_importance(fisher_forget: Tensor, fisher_retain: Tensor, eps: float = 1e-5) -> Tensor:
    """Two Fisher diagonals of one shape, at least 0 -> their ratio; ``eps`` > 0 bounds it where retain is 0."""
    return fisher_forget / (fisher_retain + eps)


def fila_factors(weight: Tensor, importance: Tensor, rank: int, scaling: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """``weight`` and ``importance`` [out, in] -> A [rank, in] and B [out, rank], at least float32.

    scaling * B A is the matrix of that rank nearest to ``weight`` when row i's error counts d_i = sqrt(sum_j I_ij)
    times.  Where all importance is equal it is PiSSA's.  Raises ``ValueError`` for a rank above the smaller side, a
    scaling of 0 or less, and importance that is negative, not finite or zero everywhere.
    """
    rows, columns = weight.shape
    if not 1 <= rank <= min(rows, columns):
        raise ValueError(
            f"The rank {rank} does not fit a matrix of {rows} x {columns}; choose one in 1..{min(rows, columns)}."
        )
    if not scaling > 0:
        raise ValueError(f"The adapter's scaling must be above 0, not {scaling}; set lora_alpha above 0.")
    if importance.shape != weight.shape:
        raise ValueError(
            f"The importance has shape {tuple(importance.shape)}, the weight {tuple(weight.shape)}; they must agree."
        )
    if not bool((torch.isfinite(importance) & (importance >= 0)).all()):
        raise ValueError(
            "The importance holds a value that is negative or not finite; check the rows it was measured on."
        )
    matrix = weight if weight.dtype == torch.float64 else weight.float()  # [out, in]
    row = importance.to(matrix.dtype).sum(1).sqrt()  # [out]
    if not bool(row.any()):
        raise ValueError("The importance is zero everywhere, so no direction stands out; measure it on other rows.")
    singular, right = _right_singular(matrix * (row / row.mean()).unsqueeze(1), rank, seed)
    # A direction that the weighted matrix does not have still gets an A of some size, or it could never be trained.
    floor = 1e-6 * float(singular[0]) or 1.0
    root = (singular.clamp_min(floor) * scaling).sqrt()  # [rank]
    return root.unsqueeze(1) / scaling * right.T, matrix @ right / root


def _right_singular(matrix: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """The largest singular values [rank] and their right vectors [in, rank]."""
    smaller = min(matrix.shape)
    if smaller <= EXACT_SVD_UP_TO:
        _, singular, right = torch.linalg.svd(matrix, full_matrices=False)
        return singular[:rank], right[:rank].T
    with torch.random.fork_rng(devices=[matrix.device] if matrix.is_cuda else []):
        torch.manual_seed(seed)
        _, singular, right = torch.svd_lowrank(matrix, q=min(rank + 8, smaller), niter=6)
    return singular[:rank], right[:, :rank]


def fisher_information(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], roles: Roles, role: str, rows: int, seed: int = 0
) -> dict[str, Tensor]:
    """Name -> mean over ``rows`` rows of the squared gradient of a row's log-likelihood, float32 (or float64).

    The rows are drawn without replacement; a parameter that no row reached is missing.  The parameters may be frozen.
    """
    size = len(roles[role])
    generator = torch.Generator().manual_seed(seeded(seed, "fisher", role))
    chosen = set(torch.randperm(size, generator=generator)[:rows].tolist())
    squares: dict[str, Tensor] = {}
    device = next(model.parameters()).device

    def add(name: str, gradient: Tensor) -> None:
        gradient = gradient if gradient.dtype == torch.float64 else gradient.float()
        if name in squares:
            squares[name].addcmul_(gradient, gradient)
        else:
            squares[name] = gradient.square()

    with evaluating(model), torch.enable_grad(), each_gradient(model, parameters, add):
        for index, batch in enumerate(roles.in_order(role, 1)):
            if index in chosen:
                view = roles.adapter.views(model, batch.to(device), [role])[role]
                view.logp.sum().backward()  # type: ignore[attr-defined]
    return {name: value / len(chosen) for name, value in squares.items()}


@dataclass(frozen=True)
class Fila:
    """``rows`` of each role measure the Fisher information: None takes every forget row and as many retain rows.

    ``eps`` > 0 is added to the retain role's.
    """

    role: str = "forget"
    retain: str = "retain"
    rows: int | None = None
    eps: float = 1e-5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"rows must be at least 1, not {self.rows}.")
        if not self.eps > 0:
            raise ValueError(f"eps must be above 0, not {self.eps}.")

    def __call__(self, model: nn.Module, roles: Roles, companions: Mapping[str, nn.Module] | None = None) -> Patch:
        """The patch of every adapted base weight, its A and its B; the model itself is left alone.

        It asks no companion.  Raises ``ValueError`` for a model without a fresh LoRA adapter, and where
        ``fila_factors`` would.
        """
        layers = _lora_layers(model)
        for role in (self.role, self.retain):
            require_role(roles, role, "Fila")
        weights: dict[str, nn.Parameter] = {n: layer.get_base_layer().weight for n, (layer, _) in layers.items()}
        rows = min(self.rows or len(roles[self.role]), len(roles[self.role]))
        # One role's squares wait on the CPU while the other's are measured.
        forget = {n: f.cpu() for n, f in fisher_information(model, weights, roles, self.role, rows, self.seed).items()}
        retain = fisher_information(model, weights, roles, self.retain, rows, self.seed)
        delta: dict[str, Tensor] = {}
        for name, (layer, adapter) in layers.items():
            if name not in forget or name not in retain:
                idle = self.role if name not in forget else self.retain
                raise ValueError(
                    f"No row of {idle!r} reached {name}, so its importance is unknown; leave it out of target_modules."
                )
            importance = relative_importance(forget.pop(name).to(weights[name].device), retain.pop(name), self.eps)
            try:
                delta.update(self._change(name, layer, adapter, importance))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        return Patch(delta, f"LoRA started where {self.role} outweighs {self.retain}; the base holds the rest")

    def _change(self, name: str, layer: LoraLayer, adapter: str, importance: Tensor) -> dict[str, Tensor]:
        """What is added to one module's base weight, A and B."""
        scaling: float = layer.scaling[adapter]
        a: Tensor = layer.lora_A[adapter].weight.detach()  # [r, in]
        b: Tensor = layer.lora_B[adapter].weight.detach()  # [out, r]
        stored: Tensor = layer.get_base_layer().weight.detach()
        # GPT-2 keeps its weights as [in, out].
        weight, importance = (stored.T, importance.T) if layer.fan_in_fan_out else (stored, importance)
        if not bool(importance.any()):
            warnings.warn(
                f"{name}: the role {self.role!r} has no gradient here; its rows count alike, as in PiSSA.",
                stacklevel=3,
            )
            importance = torch.ones_like(importance)
        new_a, new_b = fila_factors(weight, importance, a.shape[0], scaling, self.seed)
        change_a, change_b = new_a.to(a.dtype) - a, new_b.to(b.dtype) - b
        wide = new_a.dtype
        moved = -scaling * (b + change_b).to(wide) @ (a + change_a).to(wide)  # [out, in]
        return {
            f"{name}.base_layer.weight": moved.T.contiguous() if layer.fan_in_fan_out else moved,
            f"{name}.lora_A.{adapter}.weight": change_a,
            f"{name}.lora_B.{adapter}.weight": change_b,
        }


def _lora_layers(model: nn.Module) -> dict[str, tuple[Any, str]]:
    """Module path -> (LoRA layer, its adapter), each with an adapter that changes nothing yet."""
    try:
        from peft.tuners.lora import LoraLayer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Fila starts LoRA adapters, which need the package peft: pip install peft.", name="peft"
        ) from error
    found: dict[str, tuple[Any, str]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        adapters = list(module.active_adapters)
        if len(adapters) != 1 or adapters[0] not in module.lora_A:
            raise ValueError(
                f"{name} has the LoRA adapters {adapters}; Fila starts one adapter on linear layers, so give it just "
                "one."
            )
        if not module.get_base_layer().weight.is_floating_point():
            raise ValueError(
                f"{name} is quantized, so its base cannot take the residual; load the model without quantization."
            )
        if bool(module.lora_B[adapters[0]].weight.detach().any()):
            raise ValueError(
                f"The adapter of {name} already changes the model; Fila needs a fresh one, whose B is zero."
            )
        found[name] = (module, adapters[0])
    if not found:
        raise ValueError(
            "Fila found no LoRA layer; wrap the model with peft.get_peft_model(model, LoraConfig(...)) first."
        )
    return found


METHOD = Fila
