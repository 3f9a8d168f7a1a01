"""Spends optimizer state on part of each gradient only and moves the rest by stateless sign or plain gradient steps,
so that large models train with full-rank updates in much less memory."""

from palimpsest.claim import Paper

PAPER = Paper(
    "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable Training",
    "Philip Zmushko et al.",
    2024,
    arxiv="2411.07837",
    venue="ICML 2025",
    tags=("optimize", "optimizer", "pre-training", "fine-tuning", "language-model"),
    summary=(
        "Spends optimizer state on part of each gradient only and moves the rest by stateless sign or plain gradient "
        "steps, so that large models train with full-rank updates in much less memory."
    ),
)
PARTS: tuple[str, ...] = ()
