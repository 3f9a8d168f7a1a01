"""Predicts for each query a rising curve from cosine score to relevance on top of a frozen retriever, so that one
threshold can trim the result list of every query."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Relevance Filtering for Embedding-based Retrieval",
    "Rossi et al.",
    2024,
    arxiv="2408.04887",
    venue="CIKM 2024",
    tags=("recall", "retrieval", "adapter", "encoder"),
    summary=(
        "Predicts for each query a rising curve from cosine score to relevance on top of a frozen retriever, so that "
        "one threshold can trim the result list of every query."
    ),
)
PARTS: tuple[str, ...] = ()
