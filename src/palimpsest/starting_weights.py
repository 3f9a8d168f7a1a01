"""The weights with which the models of a run begin: the recipe's own, those of before the last stage, or another's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from palimpsest.intervention import Intervention
from palimpsest.loaded import Loaded
from palimpsest.recipe import Recipe, RecipeError, short
from palimpsest.step import States

__all__ = ["Start", "set_weights", "start_elsewhere", "weights_of"]


@dataclass(frozen=True)
class Start:
    """A model that plans go on from: its weights, and what was made beside it."""

    weights: Mapping[str, Tensor]
    companions: Mapping[str, nn.Module] = field(default_factory=dict)
    interventions: Sequence[Intervention] = ()
    states: States = field(default_factory=dict)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def set_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Gives the model these weights, in place."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(weights[name])


def start_elsewhere(
    recipe: Recipe, pretrained: str, model: nn.Module, load: Callable[[Recipe], Loaded], place: str
) -> Start:
    """The start at the weights of the model ``pretrained``, which ``load`` reads as it does the recipe's own.

    Raises ``RecipeError``, which names ``place``, where there is no such model, or its weights are not those of a
    ``model`` like this one.
    """
    try:
        other = load(dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, pretrained=pretrained)))
    except RecipeError as error:
        raise RecipeError(f"{place}: {str(error).removeprefix('model.pretrained: ')}") from None
    weights = other.model.state_dict()
    why = _otherwise(model.state_dict(), weights)
    if why:
        raise RecipeError(
            f"{place}: {short(pretrained)} is no model like {short(recipe.model.pretrained)} ({why}); name one of the"
            " same architecture and vocabulary."
        )
    return Start(weights)


def _otherwise(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> str:
    """What keeps one model's weights from standing in for the other's; empty where nothing does."""
    alone = sorted(own.keys() ^ other.keys())
    if alone:
        return f"only {'the second' if alone[0] in own else 'the first'} has {alone[0]}"
    for name, value in own.items():
        if value.shape != other[name].shape:
            return f"{name} is {list(other[name].shape)} there and {list(value.shape)} here"
    first: dict[int, str] = {}
    for name, value in own.items():
        tied = first.setdefault(value.data_ptr(), name) if value.numel() else name
        if own[tied].shape == value.shape and not torch.equal(other[tied], other[name]):
            return f"{tied} and {name} are the same weights here and not there"
    return ""
