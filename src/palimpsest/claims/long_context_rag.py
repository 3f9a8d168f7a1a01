"""Shows that ever more retrieved passages first help and then mislead a language model, and answers with a better
passage order and with fine-tuning on noisy contexts, with or without written reasoning."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Long-Context LLMs Meet RAG: Overcoming Challenges for Long Inputs in RAG",
    "Jin et al.",
    2024,
    arxiv="2410.05983",
    venue="ICLR 2025",
    tags=("recall", "retrieval", "fine-tuning", "data-selection", "inference-time", "language-model"),
    summary=(
        "Shows that ever more retrieved passages first help and then mislead a language model, and answers with a "
        "better passage order and with fine-tuning on noisy contexts, with or without written reasoning."
    ),
)
PARTS: tuple[str, ...] = ()
