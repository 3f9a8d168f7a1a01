"""Tests whether a language model has forgotten a well-known person when only the name was given, by direct questions,
adversarial prompts and membership attacks, and counts the harm to related and general knowledge."""

from palimpsest.claim import Paper

PAPER = Paper(
    "RWKU: Benchmarking Real-World Knowledge Unlearning for Large Language Models",
    "Jin et al.",
    2024,
    arxiv="2406.10890",
    venue="NeurIPS 2024 Datasets and Benchmarks",
    tags=("audit", "unlearning", "benchmark", "robustness", "privacy", "language-model"),
    summary=(
        "Tests whether a language model has forgotten a well-known person when only the name was given, by direct "
        "questions, adversarial prompts and membership attacks, and counts the harm to related and general knowledge."
    ),
)
PARTS: tuple[str, ...] = ()
