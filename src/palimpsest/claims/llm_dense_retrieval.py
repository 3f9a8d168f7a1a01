"""Compares language models of many sizes as dense retrievers under one training recipe, in accuracy, need for data,
transfer, long input, instructions and multi-task use, to guide the choice of a backbone."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Large Language Models as Foundations for Next-Gen Dense Retrieval: A Comprehensive Empirical Assessment",
    "Luo et al.",
    2024,
    arxiv="2408.12194",
    venue="EMNLP 2024",
    tags=("recall", "retrieval", "benchmark", "encoder", "language-model"),
    summary=(
        "Compares language models of many sizes as dense retrievers under one training recipe, in accuracy, need for "
        "data, transfer, long input, instructions and multi-task use, to guide the choice of a backbone."
    ),
)
PARTS: tuple[str, ...] = ()
