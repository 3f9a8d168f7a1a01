"""Fits a short formula to one or two training curves and predicts the validation loss along other learning-rate
schedules, so that schedules can be compared before anything is trained."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Scaling Law with Learning Rate Annealing",
    "Howe Tissue, Venus Wang, Lu Wang",
    2024,
    arxiv="2408.11029",
    venue="NeurIPS 2025",
    tags=("optimize", "scaling-law", "schedule", "pre-training", "language-model"),
    summary=(
        "Fits a short formula to one or two training curves and predicts the validation loss along other "
        "learning-rate schedules, so that schedules can be compared before anything is trained."
    ),
)
PARTS: tuple[str, ...] = ()
