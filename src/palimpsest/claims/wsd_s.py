"""Pictures the loss as a river in a valley to explain why a constant learning rate with a late decay works, and
proposes a single run that decays briefly at each wanted budget and goes on from there."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Understanding Warmup-Stable-Decay Learning Rates: A River Valley Loss Landscape Perspective",
    "Kaiyue Wen et al.",
    2024,
    arxiv="2410.05192",
    venue="ICLR 2025",
    tags=("optimize", "schedule", "training-dynamics", "pre-training", "language-model"),
    summary=(
        "Pictures the loss as a river in a valley to explain why a constant learning rate with a late decay works, "
        "and proposes a single run that decays briefly at each wanted budget and goes on from there."
    ),
)
PARTS: tuple[str, ...] = ()
