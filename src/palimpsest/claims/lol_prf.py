"""Trains the rewriting of a query by its first search results with several amounts of feedback at once, and penalizes
every case in which more feedback searches worse than less."""

from palimpsest.claim import Paper

PAPER = Paper(
    "LoL: A Comparative Regularization Loss over Query Reformulation Losses for Pseudo-Relevance Feedback",
    "Zhu et al.",
    2022,
    arxiv="2204.11545",
    venue="SIGIR 2022",
    tags=("recall", "retrieval", "loss", "encoder"),
    summary=(
        "Trains the rewriting of a query by its first search results with several amounts of feedback at once, and "
        "penalizes every case in which more feedback searches worse than less."
    ),
)
PARTS: tuple[str, ...] = ()
