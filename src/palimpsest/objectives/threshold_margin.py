"""Holds every hidden unit on general texts in the state that the base model had it in: negative, neutral or positive.

    low, high = mean - k std, mean + k std     per dimension, over all tokens of all texts under the base model
    v = max(h - low, 0)                        where h_base <= low
      + max(high - h, 0)                       where h_base >= high
      + max(h - high, 0) + max(low - h, 0)     where h_base lies between
    L_x = sum of v over the tokens and dimensions of the text x / number of those with v > 0

h is what enters the output layer; L_x is 0 for any model that leaves every unit in its state.

Paper: GeRe: Towards Efficient Anti-Forgetting in Continual Learning of LLM via General Samples Replay (Zhang et al.,
    2025), arXiv 2508.04676.
Code: Qznan/GeRe (GeReTrainer.compute_gere_loss).
Tags: retain, continual-learning, replay, loss, fine-tuning, language-model.
Needs: nothing beside the model; one pass over the texts before the first stage, kept for all later ones.
Differs: the paper divides by the violations of the whole batch, a number that nobody knows before the forward pass and
    that would change with the split of a batch. Here each text is divided by its own violations and texts are averaged,
    which is what the released code does with its one text a micro-batch; ``balanced_threshold_margin`` divides as in
    the paper. The texts are a role with a batch of its own at every step; the paper puts a fixed number of them, or
    none in particular, among the task's rows. Statistics are taken in two passes in float64: the code's E[x^2] -
    E[x]^2 in float32 is NaN for a dimension that is large and constant. The states of all stages are those of the
    first stage's base model; the token ids stored beside them are compared at every step, so that states of other
    texts or of another tokenizer are an error. That the base model is the same cannot be checked any more once it has
    moved, apart from its width; no state is stored outside the run that made it.
See: ``balanced_threshold_margin``, ``feature_distance`` and ``kl_to_reference`` (the paper's baselines),
    ``cross_entropy`` on the same role.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.reference import evaluating
from palimpsest.roles import Roles
from palimpsest.views import TokenView, Unit

__all__ = ["METHOD", "BaseStates", "ThresholdMargin", "base_states", "statistics", "stored", "violations"]

_ROWS = 4096
"""Tokens whose states are widened to float64 at a time."""


def violations(hidden: Tensor, base: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """How far each entry of ``hidden`` [..., D] lies outside the state that ``base`` [..., D] had; at least 0.

    ``low`` and ``high`` [D] bound the neutral state.  Where they meet, a base on them is negative and positive at once.
    """
    negative, positive = base <= low, base >= high
    above, below = (hidden - low).relu(), (high - hidden).relu()
    neutral = (hidden - high).relu() + (low - hidden).relu()
    return torch.where(negative | positive, above * negative + below * positive, neutral)


def statistics(states: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation [D] in float64 of ``states`` [N, D], in two passes."""
    parts = torch.split(states, _ROWS)
    mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / len(states)
    squares = torch.stack([(part.double() - mean).square().sum(0) for part in parts]).sum(0)
    return mean, (squares / len(states)).sqrt()


class BaseStates(nn.Module):
    """What entered the base model's output layer at each token of a role's rows, and the token ids it stood for.

    ``states`` [N, D] and ``ids`` [N] hold the rows one after the other; row i begins at ``starts[i]`` [R + 1].
    """

    states: Tensor
    ids: Tensor
    starts: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, states: Tensor, ids: Tensor, starts: Tensor) -> None:
        super().__init__()
        mean, deviation = statistics(states)
        named = {"states": states, "ids": ids, "starts": starts, "mean": mean, "deviation": deviation}
        for name, value in named.items():  # kept off the device: they may be larger than the model
            self.register_buffer(name, value.cpu())

    def of(self, view: TokenView) -> Tensor:
        """[B, T, D] states of a batch's rows, 0 at padding. Raises ``ValueError`` where they are of other texts."""
        text = view.batch["attention_mask"].bool()  # [B, T]
        index = view.batch["index"].cpu()
        if int(index.max()) + 1 >= len(self.starts):
            raise ValueError(f"No state is stored for row {int(index.max()) + 1}; store the states of this very role.")
        bounds = zip(self.starts[index].tolist(), self.starts[index + 1].tolist())
        where = torch.cat([torch.arange(*pair) for pair in bounds])
        ids = view.batch["input_ids"][text].cpu()
        if len(ids) != len(where) or not torch.equal(ids, self.ids[where]):
            raise ValueError(
                "The stored states belong to other texts or to another tokenizer; let `prepare` make them for these."
            )
        chosen = self.states[where].to(text.device)
        return chosen.new_zeros(*text.shape, chosen.shape[-1]).masked_scatter(text.unsqueeze(-1), chosen)


def base_states(model: nn.Module, roles: Roles, role: str, previous: Mapping[str, Tensor] | None) -> BaseStates:
    """The states that the stage before left, or in the first stage those of the model as it is."""
    if role in roles.answers:
        raise ValueError(f"The role {role!r} is drawn afresh in every round, so its states cannot be stored.")
    if previous is not None:
        ids = torch.cat([example["input_ids"] for example in roles[role]])
        if not torch.equal(ids, previous["ids"]):
            raise ValueError(
                f"The stored states belong to other texts than those of {role!r}, or to another tokenizer; give all"
                " stages the same rows of that role."
            )
        return BaseStates(previous["states"], previous["ids"], previous["starts"])
    device = next(model.parameters()).device
    states: list[Tensor] = []
    tokens: list[Tensor] = []
    lengths = [0]
    for batch in roles.in_order(role, 16):
        with evaluating(model):
            view = roles.adapter.views(model, batch.to(device), [role], frozenset({"hidden:last"}))[role]
        assert isinstance(view, TokenView)
        text = batch[role]["attention_mask"].bool()
        states.append(view.hidden("last")[text.to(device)].cpu())
        tokens.append(batch[role]["input_ids"][text])
        lengths += text.sum(1).tolist()
    return BaseStates(torch.cat(states), torch.cat(tokens), torch.tensor(lengths).cumsum(0))


def stored(view: TokenView, state: nn.Module | None) -> tuple[Tensor, Tensor]:
    """(hidden, base) [B, T, D] in the wider of both precisions."""
    if not isinstance(state, BaseStates):
        raise ValueError("The base model's states are missing; hand over what `prepare` returned, as fit() does.")
    hidden, base = view.hidden("last"), state.of(view)
    if hidden.shape != base.shape:
        raise ValueError(
            f"The stored states have {base.shape[-1]} dimensions and the model {hidden.shape[-1]}; they belong to"
            " another base model, so start without them."
        )
    wide = torch.promote_types(torch.promote_types(hidden.dtype, base.dtype), torch.float32)
    return hidden.to(wide), base.to(wide)


@dataclass(frozen=True)
class ThresholdMargin(Objective):
    """``deviations`` k >= 0 is how many standard deviations from the mean the neutral state reaches."""

    deviations: float = 1.0

    unit: ClassVar[Unit] = "sequence"
    needs: ClassVar[frozenset[str]] = frozenset({"hidden:last"})

    def __post_init__(self) -> None:
        if not self.deviations >= 0:
            raise ValueError(f"deviations must be at least 0, not {self.deviations}; the paper takes 1.")

    def prepare(
        self, model: nn.Module, roles: Roles, role: str, previous: Mapping[str, Tensor] | None = None
    ) -> BaseStates:
        """The base model's states on the role's rows."""
        return base_states(model, roles, role, previous)

    def __call__(self, view: TokenView, state: nn.Module | None = None) -> Tensor:
        """[B], one value per text."""
        total, number = self.margins(view, state)
        return total / number.clamp_min(1)

    def margins(self, view: TokenView, state: nn.Module | None) -> tuple[Tensor, Tensor]:
        """Sum [B] and number [B] of each text's violations."""
        hidden, base = stored(view, state)
        assert isinstance(state, BaseStates)
        mean, reach = state.mean.to(base), self.deviations * state.deviation.to(base)
        found = violations(hidden, base, mean - reach, mean + reach)  # [B, T, D]
        found = torch.where(view.batch["attention_mask"].bool().unsqueeze(-1), found, 0.0)
        return found.sum((1, 2)), (found > 0).sum((1, 2))


METHOD = ThresholdMargin
