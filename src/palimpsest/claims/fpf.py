"""Finds that few layers, chiefly normalization and the classifier, drift sharply between tasks, and fine-tunes only
those on a small buffer, once or a few times, to win back most of the lost accuracy cheaply."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Does Continual Learning Equally Forget All Parameters?",
    "Haiyan Zhao et al.",
    2023,
    arxiv="2304.04158",
    venue="ICML 2023",
    tags=("retain", "continual-learning", "mask", "replay", "classifier"),
    summary=(
        "Finds that few layers, chiefly normalization and the classifier, drift sharply between tasks, and fine-tunes "
        "only those on a small buffer, once or a few times, to win back most of the lost accuracy cheaply."
    ),
)
PARTS: tuple[str, ...] = ()
