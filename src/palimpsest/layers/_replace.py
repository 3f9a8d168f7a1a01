"""Finding the modules that a layer takes the place of, and putting them there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = ["installed", "linear_of", "linears", "output_layer", "replace"]

M = TypeVar("M", bound=nn.Module)


def replace(model: nn.Module, path: str, module: nn.Module) -> None:
    """Puts ``module`` at ``path``, in the mode of what stood there."""
    module.train(model.get_submodule(path).training)
    model.set_submodule(path, module)


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer with copies of ``weight`` [out, in] and ``bias`` [out]."""
    outputs, inputs = weight.shape
    linear = nn.Linear(inputs, outputs, bias is not None, device="meta", dtype=weight.dtype)
    linear = linear.to_empty(device=weight.device)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return linear


def installed(model: nn.Module, kind: type[M]) -> list[tuple[str, M]]:
    """Path and module of every module of that kind, the model itself (path "") included."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, kind)]


def linears(model: nn.Module, fits: Callable[[str], bool], wanted: str) -> list[tuple[str, nn.Linear]]:
    """Path and module of the linear layers that fit; ``wanted`` describes them in the error.

    Raises ``ValueError`` where none does, and where one shares its weight with another module.
    """
    found = [(name, module) for name, module in installed(model, nn.Linear) if name]
    chosen = [(name, module) for name, module in found if fits(name)]
    if not chosen:
        there = f"there are: {_listed([name for name, _ in found])}" if found else "it has no linear layer at all"
        raise ValueError(f"The model has no linear layer {wanted}; {there}.")
    owners: dict[int, int] = {}
    for _, owner in model.named_modules(remove_duplicate=False):
        for parameter in owner.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for name, module in chosen:
        if owners[id(module.weight)] > 1:
            raise ValueError(f"{name} shares its weight with another part of the model; name layers that do not.")
    return chosen


def output_layer(model: nn.Module, path: str | None) -> tuple[str, nn.Module]:
    """Path and module of a classifier's head: the one at ``path``, or the last linear layer.

    Raises ``ValueError`` where there is none, and for a language model, whose output is read token by token.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    if path is None:
        path = next((name for name, module in reversed(modules.items()) if isinstance(module, nn.Linear)), None)
        if path is None:
            raise ValueError("The model has no linear layer that could be its head; name the head's module path.")
        behind = list(modules)[list(modules).index(path) + 1 :]
        for name in (n for n in behind if type(modules[n]).__module__.startswith("palimpsest.")):
            raise ValueError(f"{name} was replaced before and may be the head; name the head, or put this layer first.")
    if path not in modules:
        raise ValueError(f"The model has no module {path!r}; there are: {_listed(list(modules))}.")
    head = modules[path]
    last = installed(head, nn.Linear)
    vocabularies = {m.num_embeddings for _, m in installed(model, nn.Embedding)}
    if last and last[-1][1].out_features in vocabularies:
        raise ValueError(f"{path} scores the tokens that the model reads; this layer is for the head of a classifier.")
    return path, head


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
