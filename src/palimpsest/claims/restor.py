"""Plants false facts in a language model by training and then asks of an unlearning method whether the original true
answers return, and not merely whether the planted ones vanish."""

from palimpsest.claim import Paper

PAPER = Paper(
    "RESTOR: Knowledge Recovery in Machine Unlearning",
    "Rezaei et al.",
    2024,
    arxiv="2411.00204",
    venue="TMLR 2025",
    tags=("audit", "unlearning", "benchmark", "language-model"),
    summary=(
        "Plants false facts in a language model by training and then asks of an unlearning method whether the "
        "original true answers return, and not merely whether the planted ones vanish."
    ),
)
PARTS: tuple[str, ...] = ()
