"""LoRA adapters of stages: attached where a stage begins, merged into the weights where it ends.

    lora: {rank: 8}                        a new adapter
    lora: {rank: 8, continues: true}       the adapter of the stage before, trained on

Between two stages the model is a plain one, so that audits, edits and files know nothing of adapters.  What a later
stage needs to go on is a state beside those of the objectives, and goes their way: to the disk, to variants, and to a
run that was killed.  To go on, what was merged is subtracted again: the frozen weights are then as they were up to the
rounding of one addition, which is the same in every life of a run on one device.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from palimpsest.recipe import Lora, RecipeError
from palimpsest.reference import SlowAverage
from palimpsest.roles import seeded
from palimpsest.step import States

__all__ = ["ADAPTER", "AVERAGE", "attach", "factors", "left", "merge", "resume_average", "without_adapter"]

ADAPTER = "lora"
"""The state of the last adapter: its factors as ``trained`` and as ``merged``, and the ``number`` of adapters yet."""
AVERAGE = "slow_average"
"""The state of the slow average that followed the last adapter."""


def attach(model: nn.Module, lora: Lora, states: States, seed: int, place: str) -> nn.Module:
    """``model`` under a new adapter, or under the one that the stage before left in ``states``.

    A run's first adapter is drawn from ``seed``, each later one from a seed of its own.
    """
    try:
        from peft import LoraConfig, get_peft_model
        from transformers import PreTrainedModel
    except ImportError:
        raise RecipeError(f"{place} needs peft; pip install 'palimpsest[peft]'.") from None
    text = isinstance(model, PreTrainedModel)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not (linear or lora.targets or text):
        raise RecipeError(f"{place}: the model has no linear layer; name its layers in targets.")
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets or ("all-linear" if text else linear),
        task_type="CAUSAL_LM" if text else None,
    )
    number = _number(states)
    torch.manual_seed(seeded(seed, ADAPTER, number) if number else seed)
    try:
        wrapped: nn.Module = get_peft_model(model, config)
    except ValueError as error:
        raise RecipeError(f"{place}.targets: {error}") from None
    if lora.continues:
        _take_up(wrapped, states.get(ADAPTER, {}), place)
    return wrapped


def _number(states: States) -> int:
    """How many adapters were attached before."""
    known = states.get(ADAPTER, {}).get("number")
    return 0 if known is None else int(known)


def factors(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the adapter, which is all that a wrapped model trains."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def _take_up(wrapped: nn.Module, kept: Mapping[str, Tensor], place: str) -> None:
    """The last adapter's factors in the place of the new ones, and out of the weights what was merged of it."""
    from peft.tuners.lora import LoraLayer

    merged, trained = _part(kept, "merged"), _part(kept, "trained")
    own = {name: p for name, p in wrapped.named_parameters() if p.requires_grad}
    if {n: v.shape for n, v in own.items()} != {n: v.shape for n, v in merged.items()}:
        raise RecipeError(f"{place}.continues: the stage before left no adapter of these layers and rank; remove it.")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(merged[name])
        for layer in (m for m in wrapped.modules() if isinstance(m, LoraLayer)):
            layer.get_base_layer().weight -= layer.get_delta_weight("default")
        for name, parameter in own.items():
            parameter.copy_(trained[name])


def _part(state: Mapping[str, Tensor], which: str) -> dict[str, Tensor]:
    """The factors kept under ``which``, by their names in the wrapped model."""
    prefix = f"{which}/"
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def left(trained: Mapping[str, Tensor], merged: Mapping[str, Tensor], states: States) -> dict[str, dict[str, Tensor]]:
    """The state of a stage whose adapter was ``trained`` to these factors, of which ``merged`` are in the weights."""
    named = {f"{which}/{n}": v for which, own in (("trained", trained), ("merged", merged)) for n, v in own.items()}
    return {ADAPTER: {**named, "number": torch.tensor(_number(states) + 1)}}


def without_adapter(states: States) -> States:
    """``states`` for a stage that changes the model: the adapter of before is now part of the weights, for good."""
    kept = {method: own for method, own in states.items() if method not in (ADAPTER, AVERAGE)}
    return {**kept, ADAPTER: {"number": torch.tensor(_number(states))}} if ADAPTER in states else kept


def resume_average(average: SlowAverage, states: States) -> None:
    """Goes on with the slow average of the stage before, its count of steps included, if there was one."""
    known = states.get(AVERAGE)
    if known is not None:
        average.state.load_state_dict(dict(known))


def merge(wrapped: nn.Module, model: nn.Module) -> None:
    """Folds the adapter into the weights; ``model`` is then a plain model again, all of it trainable."""
    wrapped.merge_and_unload()  # type: ignore[operator]
    model.requires_grad_(True)
