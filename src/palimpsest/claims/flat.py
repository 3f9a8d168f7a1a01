"""Unlearns from the forget prompts alone by pulling a language model toward a stock refusal and away from the answer
to be lost, balanced by an f-divergence, for people who hold no retain data or reference model."""

from palimpsest.claim import Paper

PAPER = Paper(
    "LLM Unlearning via Loss Adjustment with Only Forget Data",
    "Wang et al.",
    2024,
    arxiv="2410.11143",
    venue="ICLR 2025",
    tags=("forget", "unlearning", "loss", "language-model"),
    summary=(
        "Unlearns from the forget prompts alone by pulling a language model toward a stock refusal and away from the "
        "answer to be lost, balanced by an f-divergence, for people who hold no retain data or reference model."
    ),
)
PARTS: tuple[str, ...] = ("objectives.flat",)
