"""Fine-tunes a reasoning model for the chance that any of several samples is right, which curbs overconfidence and
keeps accuracy from falling when many answers may be drawn."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Rethinking Fine-Tuning when Scaling Test-Time Compute: Limiting Confidence Improves Mathematical Reasoning",
    "Chen, Raventos et al.",
    2025,
    arxiv="2502.07154",
    venue="NeurIPS 2025",
    tags=("learn", "loss", "reasoning", "fine-tuning", "language-model"),
    summary=(
        "Fine-tunes a reasoning model for the chance that any of several samples is right, which curbs overconfidence "
        "and keeps accuracy from falling when many answers may be drawn."
    ),
)
PARTS: tuple[str, ...] = ()
