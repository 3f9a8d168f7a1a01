"""Lowers the likelihood of forget-set answers relative to the starting model by a loss that flattens out as they fade,
so that a language model can be made to forget without the collapse that gradient ascent brings."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning",
    "Zhang et al.",
    2024,
    arxiv="2404.05868",
    tags=("forget", "unlearning", "loss", "language-model"),
    summary=(
        "Lowers the likelihood of forget-set answers relative to the starting model by a loss that flattens out as "
        "they fade, so that a language model can be made to forget without the collapse that gradient ascent brings."
    ),
)
PARTS: tuple[str, ...] = ("objectives.npo",)
