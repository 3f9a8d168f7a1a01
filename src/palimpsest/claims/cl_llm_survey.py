"""Maps continual learning of language models by training stage, by direction of change (from general to special, or
over time) and by technique, with the metrics and protocols that tell what was forgotten."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Continual Learning of Large Language Models: A Comprehensive Survey",
    "Haizhou Shi et al.",
    2024,
    arxiv="2404.16789",
    venue="ACM Computing Surveys 2025",
    tags=("retain", "continual-learning", "survey", "language-model"),
    summary=(
        "Maps continual learning of language models by training stage, by direction of change (from general to "
        "special, or over time) and by technique, with the metrics and protocols that tell what was forgotten."
    ),
)
PARTS: tuple[str, ...] = ()
