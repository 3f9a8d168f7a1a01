"""Treats lost answer format and lost knowledge as two kinds of forgetting in multimodal tuning: varied answer styles
in the data cure the first, a penalty on LoRA entries that earlier tasks moved most cures the second."""

from palimpsest.claim import Paper

PAPER = Paper(
    "SEFE: Superficial and Essential Forgetting Eliminator for Multimodal Continual Instruction Tuning",
    "Jinpeng Chen et al.",
    2025,
    arxiv="2505.02486",
    venue="ICML 2025",
    tags=("retain", "continual-learning", "data-selection", "loss", "adapter", "multimodal"),
    summary=(
        "Treats lost answer format and lost knowledge as two kinds of forgetting in multimodal tuning: varied answer "
        "styles in the data cure the first, a penalty on LoRA entries that earlier tasks moved most cures the second."
    ),
)
PARTS: tuple[str, ...] = ()
