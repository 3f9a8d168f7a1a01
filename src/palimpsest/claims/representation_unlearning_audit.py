"""Holds an unlearned image classifier against a retrained one from the inside, by layer similarity and transfer to
related data, to expose methods that only repaint the last layer."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Are We Truly Forgetting? A Critical Re-examination of Machine Unlearning Evaluation Protocols",
    "Kim, Cha, Kim",
    2025,
    arxiv="2503.06991",
    tags=("audit", "unlearning", "benchmark", "classifier"),
    summary=(
        "Holds an unlearned image classifier against a retrained one from the inside, by layer similarity and "
        "transfer to related data, to expose methods that only repaint the last layer."
    ),
)
PARTS: tuple[str, ...] = ()
