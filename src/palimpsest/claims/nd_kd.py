"""Adds to any distillation loss a term that turns each student feature toward the teacher's class mean and lengthens
it, for people who train small classifiers from large ones."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Improving Knowledge Distillation via Regularizing Feature Norm and Direction",
    "Wang et al.",
    2023,
    arxiv="2305.17007",
    tags=("learn", "distillation", "loss", "classifier"),
    summary=(
        "Adds to any distillation loss a term that turns each student feature toward the teacher's class mean and "
        "lengthens it, for people who train small classifiers from large ones."
    ),
)
PARTS: tuple[str, ...] = ()
