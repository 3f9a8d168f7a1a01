"""Lets an object detector take on new classes and new domains in turn without stored pictures, by merging shared
weights layer by layer, joining the heads and penalizing updates that pull against earlier ones."""

from palimpsest.claim import Paper

PAPER = Paper(
    "DuET: Dual Incremental Object Detection via Exemplar-Free Task Arithmetic",
    "Munish Monga et al.",
    2025,
    arxiv="2506.21260",
    venue="ICCV 2025",
    tags=("retain", "continual-learning", "weight-edit", "distillation", "detector"),
    summary=(
        "Lets an object detector take on new classes and new domains in turn without stored pictures, by merging "
        "shared weights layer by layer, joining the heads and penalizing updates that pull against earlier ones."
    ),
)
PARTS: tuple[str, ...] = ()
