"""Keeps the general ability of a language model through a series of fine-tunings by replaying a small fixed set of
ordinary texts and holding each hidden unit on them in its negative, neutral or positive state."""

from palimpsest.claim import Paper

PAPER = Paper(
    "GeRe: Towards Efficient Anti-Forgetting in Continual Learning of LLM via General Samples Replay",
    "Yunan Zhang et al.",
    2025,
    arxiv="2508.04676",
    tags=("retain", "continual-learning", "replay", "loss", "fine-tuning", "language-model"),
    summary=(
        "Keeps the general ability of a language model through a series of fine-tunings by replaying a small fixed "
        "set of ordinary texts and holding each hidden unit on them in its negative, neutral or positive state."
    ),
)
PARTS: tuple[str, ...] = ()
