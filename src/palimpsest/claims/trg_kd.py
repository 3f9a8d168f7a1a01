"""Passes on from teacher to student how image patches relate, within one picture and across a batch, through
nearest-neighbor graphs and contrastive matching; meant above all for long-tailed data."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Knowledge Distillation via Token-level Relationship Graph",
    "Zhang, Liu, He",
    2023,
    arxiv="2306.12442",
    tags=("learn", "distillation", "loss", "imbalance", "classifier"),
    summary=(
        "Passes on from teacher to student how image patches relate, within one picture and across a batch, through "
        "nearest-neighbor graphs and contrastive matching; meant above all for long-tailed data."
    ),
)
PARTS: tuple[str, ...] = ()
