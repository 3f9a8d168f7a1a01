"""Explains delayed generalization as a network that first fits its data like a fixed kernel and learns features only
later, and offers one output-scale knob and diagnostics that apply to any network."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Grokking as the Transition from Lazy to Rich Training Dynamics",
    "Tanishq Kumar, Blake Bordelon, Samuel Gershman, Cengiz Pehlevan",
    2023,
    arxiv="2310.06110",
    venue="ICLR 2024",
    tags=("optimize", "audit", "training-dynamics", "classifier"),
    summary=(
        "Explains delayed generalization as a network that first fits its data like a fixed kernel and learns "
        "features only later, and offers one output-scale knob and diagnostics that apply to any network."
    ),
)
PARTS: tuple[str, ...] = ()
