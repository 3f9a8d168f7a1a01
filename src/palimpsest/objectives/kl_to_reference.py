"""Keeps a model's whole distribution where the reference model had it.

    L_t = KL(p_ref(. | context_t) || p(. | context_t)) = sum_v p_ref,v (log p_ref,v - log p_v)

With a ``temperature`` T both are softmax(z / T); there is no factor T^2.  Over several stages ``reference: start``
keeps the model before the first of them as the reference, where each stage would else take the model before itself.

Paper: Learning without Forgetting (Li and Hoiem, 2016), arXiv 1606.09282; the retain term npo_KL of arXiv 2404.05868;
    the baseline of GeRe on logits (T = 2), arXiv 2508.04676.
Code: licong-lin/negative-preference-optimization (loss type npo_KL), Qznan/GeRe.
Tags: retain, loss, distillation, language-model, classifier.
Needs: ref, as whole distributions.
Differs: averaged over the scored positions only, where the released code averages over every position of the batch,
    prompt and padding included; with every position scored both agree. ``direction="reverse"`` is KL(p || p_ref).
See: ``cross_entropy`` on retain, which needs no reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.views import LabelView, TokenView, Unit

__all__ = ["METHOD", "KLToReference", "kl_divergence"]


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) in nats from log-probabilities [..., V] -> [...]; entries where p is 0 count 0."""
    return (log_p.exp() * (log_p - log_q).masked_fill(log_p.isneginf(), 0.0)).sum(-1)


@dataclass(frozen=True)
class KLToReference(Objective):
    """``direction`` forward is KL(ref || model), which keeps all the reference says; reverse is KL(model || ref).

    ``temperature`` T > 0; above 1 both distributions are flatter, and what is unlikely counts more.
    """

    direction: Literal["forward", "reverse"] = "forward"
    temperature: float = 1.0

    unit: ClassVar[Unit] = "token"
    needs: ClassVar[frozenset[str]] = frozenset({"ref", "ref:logits"})

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, not {self.temperature}.")

    def __call__(self, view: TokenView | LabelView, state: nn.Module | None = None) -> Tensor:
        """[B, T-1] for tokens, [B] for labels."""
        if isinstance(view, TokenView):
            return view.compare(view.ref, self._divergence)
        return self._divergence(view.log_probs, view.ref.log_probs.detach())

    def _divergence(self, own: Tensor, ref: Tensor) -> Tensor:
        if self.temperature != 1:  # log-probabilities are logits less a constant
            own, ref = ((x / self.temperature).log_softmax(-1) for x in (own, ref))
        return kl_divergence(ref, own) if self.direction == "forward" else kl_divergence(own, ref)


METHOD = KLToReference
