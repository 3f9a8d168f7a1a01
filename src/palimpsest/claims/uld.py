"""Teaches a small helper model only what should be forgotten and subtracts its logits while the target generates, for
people who want a language model to forget without training the model itself."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Reversing the Forget-Retain Objectives: An Efficient LLM Unlearning Framework from Logit Difference",
    "Ji et al.",
    2024,
    arxiv="2406.08607",
    tags=("forget", "unlearning", "inference-time", "language-model"),
    summary=(
        "Teaches a small helper model only what should be forgotten and subtracts its logits while the target "
        "generates, for people who want a language model to forget without training the model itself."
    ),
)
PARTS: tuple[str, ...] = ("interventions.logit_difference", "objectives.uniform", "procedures.truncated_copy")
