"""Subtracts from a model's logits those of a small assistant that knows what should be forgotten.

    S = {v : log p_b(v) >= min(max_u log p_b(u) + ln r, the max(1, int(r V))-th largest log p_b)}
    z = b - alpha a  on S
    next token ~ softmax_S(z);    score  q(v) = P_b(S) softmax_S(z)_v  on S,  p_b(v) outside

b are the model's logits and a the assistant's, of V tokens each.  The assistant is peaked on what it learned, the
forget set, and flat elsewhere: there nothing is taken away.  The filter S keeps tokens out that only the subtraction
would raise.  The knowledge stays in the weights: the model without the intervention still has it.

Paper: Reversing the Forget-Retain Objectives: An Efficient LLM Unlearning Framework from Logit Difference (Ji et al.,
    2024), arXiv 2406.08607 (inference).
Code: UCSB-NLP-Chang/ULD (ContrastLLM, ContrastGenerationMixin).
Tags: forget, unlearning, inference-time, language-model.
Needs: a companion with the same vocabulary, trained on forget with ``cross_entropy`` and on retain with ``uniform``.
Differs: the rank rule keeps at least one token where int(r V) is 0 (released: all of them). Outside S, the released
    scores are logits of b beside those of b - alpha a on S, which change when a constant is added to a; the q above is
    a distribution and does not. Figures from ``generate`` use softmax_S(z), all others q. The released default of
    alpha is stored with the opposite sign.
See: ``truncated_copy`` (where the assistant starts), ``uniform``, ``cross_entropy``; ``whos_harry_potter`` (of a
    companion as large as the model).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palimpsest.interventions._joined_logits import joined_logits

__all__ = ["METHOD", "LogitDifference", "combine_generation", "combine_scoring", "keep_set"]


def keep_set(log_p: Tensor, top_logit_filter: float) -> Tensor:
    """Log-probabilities [..., V] -> bool [..., V]: the tokens that stay, at least one; all for a filter of 0."""
    if not top_logit_filter:
        return torch.ones_like(log_p, dtype=torch.bool)
    number = max(1, int(top_logit_filter * log_p.shape[-1]))
    by_rank = log_p.topk(number, dim=-1).values[..., -1:]  # [..., 1]
    by_probability = log_p.amax(-1, keepdim=True) + math.log(top_logit_filter)  # [..., 1]
    return log_p >= torch.minimum(by_probability, by_rank)


def combine_generation(b: Tensor, a: Tensor, alpha: float, top_logit_filter: float) -> Tensor:
    """Logits of model and assistant [..., V] -> logits of the next token: b - alpha a on S, -inf outside."""
    kept = keep_set(b.log_softmax(-1), top_logit_filter)
    return (b - alpha * a).masked_fill(~kept, -math.inf)


def combine_scoring(b: Tensor, a: Tensor, alpha: float, top_logit_filter: float) -> Tensor:
    """Logits of model and assistant [..., V] -> log q [..., V], log-probabilities that sum to one over all tokens.

    A constant added to ``a`` or ``b`` changes nothing.
    """
    log_p = b.log_softmax(-1)
    kept = keep_set(log_p, top_logit_filter)
    mass = log_p.masked_fill(~kept, -math.inf).logsumexp(-1, keepdim=True)  # [..., 1] ln P_b(S)
    inside = (b - alpha * a).masked_fill(~kept, -math.inf).log_softmax(-1)
    return torch.where(kept, inside + mass, log_p)


@dataclass(frozen=True)
class LogitDifference:
    """``alpha`` >= 0 is how much of the assistant is subtracted; ``top_logit_filter`` r in [0, 1), 0 for no filter.

    ``assistant`` names the companion.
    """

    alpha: float = 0.8
    top_logit_filter: float = 0.01
    assistant: str = "assistant"

    def __post_init__(self) -> None:
        if not (self.alpha >= 0 and math.isfinite(self.alpha)):
            raise ValueError(
                f"alpha is the share of the assistant that is subtracted, at least 0, not {self.alpha}; drop the sign."
            )
        if not 0 <= self.top_logit_filter < 1:
            raise ValueError(f"top_logit_filter lies in [0, 1), not {self.top_logit_filter}; 0 keeps every token.")

    @property
    def companion(self) -> str:
        """The same name, as every method with a companion gives it."""
        return self.assistant

    def attach(self, model: nn.Module, companions: Mapping[str, nn.Module]) -> AbstractContextManager[nn.Module]:
        """A context in which ``model`` (plain, peft or DDP) answers without what the assistant knows.

        Raises ``ValueError`` when the companion is missing, is the model itself, or has another vocabulary.
        """
        return joined_logits("LogitDifference", model, companions, self.assistant, self._joined)

    def _joined(self, b: Tensor, a: Tensor, generating: bool) -> Tensor:
        """[B, T, V]: generation wants -inf outside S, where scores want a distribution."""
        combine = combine_generation if generating else combine_scoring
        return combine(b, a, self.alpha, self.top_logit_filter)


METHOD = LogitDifference
