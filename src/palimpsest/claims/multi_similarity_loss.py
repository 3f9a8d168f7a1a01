"""Trains image embeddings by picking the informative pairs of each anchor and weighting each by its own similarity and
by how it compares with the others, and recasts earlier pair losses as such weightings."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning",
    "Wang et al.",
    2019,
    arxiv="1904.06627",
    venue="CVPR 2019",
    tags=("learn", "loss", "retrieval", "encoder"),
    summary=(
        "Trains image embeddings by picking the informative pairs of each anchor and weighting each by its own "
        "similarity and by how it compares with the others, and recasts earlier pair losses as such weightings."
    ),
)
PARTS: tuple[str, ...] = ()
