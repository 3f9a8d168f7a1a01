"""Has a language model mark the passages that help to answer a query, and trains a retriever on them with a
contrastive loss that pools all positives of a query, to save manual labels."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Leveraging LLMs for Utility-Focused Annotation: Reducing Manual Effort for Retrieval and RAG",
    "Zhang et al.",
    2025,
    arxiv="2504.05220",
    venue="EMNLP 2025",
    tags=("recall", "retrieval", "loss", "data-selection", "encoder"),
    summary=(
        "Has a language model mark the passages that help to answer a query, and trains a retriever on them with a "
        "contrastive loss that pools all positives of a query, to save manual labels."
    ),
)
PARTS: tuple[str, ...] = ()
