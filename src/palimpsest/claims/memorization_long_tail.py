"""Explains why accuracy on long-tailed data can demand that rare labels be memorized, and defines the memorization and
influence scores, with an estimator, on which many audits rest."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Does Learning Require Memorization? A Short Tale about a Long Tail",
    "Feldman",
    2019,
    arxiv="1906.05271",
    venue="STOC 2020",
    tags=("image", "audit", "memorization", "privacy", "classifier"),
    summary=(
        "Explains why accuracy on long-tailed data can demand that rare labels be memorized, and defines the "
        "memorization and influence scores, with an estimator, on which many audits rest."
    ),
)
PARTS: tuple[str, ...] = ()
