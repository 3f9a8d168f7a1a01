"""Lets a language model talk without end in a fixed cache, and without training, by keeping the first tokens and those
that surprised it most while older surprise fades turn by turn."""

from palimpsest.claim import Paper

PAPER = Paper(
    "SirLLM: Streaming Infinite Retentive LLM",
    "Yao, Li, Zhao",
    2024,
    arxiv="2405.12528",
    venue="ACL 2024",
    tags=("recall", "memory", "inference-time", "language-model"),
    summary=(
        "Lets a language model talk without end in a fixed cache, and without training, by keeping the first tokens "
        "and those that surprised it most while older surprise fades turn by turn."
    ),
)
PARTS: tuple[str, ...] = ()
