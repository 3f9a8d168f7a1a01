"""Gives a student classifier a second output head for the teacher's logits and leaves cross-entropy to the first,
because the two conflict on one head; the spare head is dropped after training."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Dual-Head Knowledge Distillation: Enhancing Logits Utilization with an Auxiliary Head",
    "Yang et al.",
    2024,
    arxiv="2411.08937",
    venue="KDD 2025",
    tags=("learn", "distillation", "loss", "architecture", "classifier"),
    summary=(
        "Gives a student classifier a second output head for the teacher's logits and leaves cross-entropy to the "
        "first, because the two conflict on one head; the spare head is dropped after training."
    ),
)
PARTS: tuple[str, ...] = ()
