"""Measures old tasks after every training step instead of at task ends, which uncovers a sharp passing loss right
after each switch, for anyone who must know how bad a continual learner gets in between."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Continual evaluation for lifelong learning: Identifying the stability gap",
    "Matthias De Lange et al.",
    2022,
    arxiv="2205.13452",
    venue="ICLR 2023",
    tags=("retain", "audit", "continual-learning", "benchmark", "training-dynamics", "classifier"),
    summary=(
        "Measures old tasks after every training step instead of at task ends, which uncovers a sharp passing loss "
        "right after each switch, for anyone who must know how bad a continual learner gets in between."
    ),
)
PARTS: tuple[str, ...] = ()
