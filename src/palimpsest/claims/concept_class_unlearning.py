"""Locates the human-readable concepts by which a model knows a class, masks or swaps them in relabeled copies of the
examples and fine-tunes on those copies, for controlled forgetting of image and text classes."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Class Machine Unlearning for Complex Data via Concepts Inference and Data Poisoning",
    "Chang et al.",
    2024,
    arxiv="2405.15662",
    tags=("forget", "unlearning", "data-selection", "classifier", "language-model"),
    summary=(
        "Locates the human-readable concepts by which a model knows a class, masks or swaps them in relabeled copies "
        "of the examples and fine-tunes on those copies, for controlled forgetting of image and text classes."
    ),
)
PARTS: tuple[str, ...] = ()
