"""Trains a fast LoRA adapter on each task with replay, lets a slow moving average follow it and ties their features on
replayed data together, to reduce forgetting in parameter-efficient tuning."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Analyzing and Reducing Catastrophic Forgetting in Parameter Efficient Tuning",
    "Weijieying Ren et al.",
    2024,
    arxiv="2402.18865",
    venue="ICASSP 2025",
    tags=("retain", "continual-learning", "replay", "adapter", "loss", "language-model"),
    summary=(
        "Trains a fast LoRA adapter on each task with replay, lets a slow moving average follow it and ties their "
        "features on replayed data together, to reduce forgetting in parameter-efficient tuning."
    ),
)
PARTS: tuple[str, ...] = ()
