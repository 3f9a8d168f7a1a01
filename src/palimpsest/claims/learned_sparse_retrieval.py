"""Rebuilds learned sparse search methods such as SPLADE, uniCOIL and DeepImpact from the same few kinds of encoder,
and finds out which of their parts are worth their cost."""

from palimpsest.claim import Paper

PAPER = Paper(
    "A Unified Framework for Learned Sparse Retrieval",
    "Nguyen, MacAvaney, Yates",
    2023,
    arxiv="2303.13416",
    venue="ECIR 2023",
    tags=("recall", "retrieval", "loss", "benchmark", "encoder"),
    summary=(
        "Rebuilds learned sparse search methods such as SPLADE, uniCOIL and DeepImpact from the same few kinds of "
        "encoder, and finds out which of their parts are worth their cost."
    ),
)
PARTS: tuple[str, ...] = ()
