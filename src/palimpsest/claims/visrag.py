"""Searches documents by embedding pictures of their pages and answers from those pictures, for collections whose
layout and figures would be lost in text extraction."""

from palimpsest.claim import Paper

PAPER = Paper(
    "VisRAG: Vision-based Retrieval-augmented Generation on Multi-modality Documents",
    "Yu et al.",
    2024,
    arxiv="2410.10594",
    venue="ICLR 2025",
    tags=("recall", "retrieval", "multimodal", "encoder"),
    summary=(
        "Searches documents by embedding pictures of their pages and answers from those pictures, for collections "
        "whose layout and figures would be lost in text extraction."
    ),
)
PARTS: tuple[str, ...] = ()
