"""Describes the loss of a translation model by separate power laws in encoder and decoder size, which gives the best
split of parameters, and shows that the origin of test sentences decides whether scaling pays."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Scaling Laws for Neural Machine Translation",
    "Behrooz Ghorbani et al.",
    2021,
    arxiv="2109.07740",
    venue="ICLR 2022",
    tags=("optimize", "scaling-law", "language-model"),
    summary=(
        "Describes the loss of a translation model by separate power laws in encoder and decoder size, which gives "
        "the best split of parameters, and shows that the origin of test sentences decides whether scaling pays."
    ),
)
PARTS: tuple[str, ...] = ()
