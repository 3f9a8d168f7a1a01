"""Confines unlearning to the weights with the largest forget-loss gradients and trains just those, with random labels
for what must go and true labels for what stays, in image classifiers and generators."""

from palimpsest.claim import Paper

PAPER = Paper(
    (
        "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image Classification and "
        "Generation"
    ),
    "Fan et al.",
    2023,
    arxiv="2310.12508",
    venue="ICLR 2024",
    tags=("forget", "unlearning", "mask", "loss", "classifier", "diffusion"),
    summary=(
        "Confines unlearning to the weights with the largest forget-loss gradients and trains just those, with random "
        "labels for what must go and true labels for what stays, in image classifiers and generators."
    ),
)
PARTS: tuple[str, ...] = ("masks.salun", "objectives.random_label")
