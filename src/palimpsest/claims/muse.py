"""Judges an unlearned language model against one trained without the data in six ways: recited text, recalled facts,
privacy leakage, kept utility, larger requests and repeated requests."""

from palimpsest.claim import Paper

PAPER = Paper(
    "MUSE: Machine Unlearning Six-Way Evaluation for Language Models",
    "Shi et al.",
    2024,
    arxiv="2407.06460",
    tags=("audit", "unlearning", "benchmark", "memorization", "privacy", "language-model"),
    summary=(
        "Judges an unlearned language model against one trained without the data in six ways: recited text, recalled "
        "facts, privacy leakage, kept utility, larger requests and repeated requests."
    ),
)
PARTS: tuple[str, ...] = (
    "audits.verbatim_memorization",
    "audits.knowledge_memorization",
    "audits.privacy_leakage",
    "procedures.request_sweep",
)
