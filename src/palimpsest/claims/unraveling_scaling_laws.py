"""Lays out step by step how to estimate the constants of language-model scaling laws from small models, and how to
foretell a far larger model's loss curve, critical batch size and need for tokens."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Unraveling the Mystery of Scaling Laws: Part I",
    "Hui Su, Zhi Tian, Xiaoyu Shen, Xunliang Cai",
    2024,
    arxiv="2403.06563",
    tags=("optimize", "scaling-law", "pre-training", "language-model"),
    summary=(
        "Lays out step by step how to estimate the constants of language-model scaling laws from small models, and "
        "how to foretell a far larger model's loss curve, critical batch size and need for tokens."
    ),
)
PARTS: tuple[str, ...] = ()
