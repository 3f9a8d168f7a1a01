"""Trains two-tower passage search first with fixed hard negatives steadied by random ones, and then the query tower
alone against documents that are retrieved afresh at every step."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Optimizing Dense Retrieval Model Training with Hard Negatives",
    "Zhan et al.",
    2021,
    arxiv="2104.08051",
    venue="SIGIR 2021",
    tags=("recall", "retrieval", "data-selection", "loss", "encoder"),
    summary=(
        "Trains two-tower passage search first with fixed hard negatives steadied by random ones, and then the query "
        "tower alone against documents that are retrieved afresh at every step."
    ),
)
PARTS: tuple[str, ...] = ()
