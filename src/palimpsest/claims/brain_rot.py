"""Continues training language models on graded doses of junk social-media text under otherwise equal conditions and
measures what reasoning, long-context use and safety lose, and what later training wins back."""

from palimpsest.claim import Paper

PAPER = Paper(
    'LLMs Can Get "Brain Rot"!',
    "Shuo Xing, Junyuan Hong, Yifan Wang et al.",
    2025,
    arxiv="2510.13928",
    tags=("retain", "audit", "continual-learning", "data-selection", "benchmark", "safety", "language-model"),
    summary=(
        "Continues training language models on graded doses of junk social-media text under otherwise equal "
        "conditions and measures what reasoning, long-context use and safety lose, and what later training wins back."
    ),
)
PARTS: tuple[str, ...] = ()
