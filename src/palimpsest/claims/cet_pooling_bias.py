"""Trains a ranker beside a model of which documents people got to judge, each reweighting the other's negatives, so
that relevant but unlabeled passages among the hard negatives do less harm."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Hard Negatives or False Negatives: Correcting Pooling Bias in Training Neural Ranking Models",
    "Cai et al.",
    2022,
    arxiv="2209.05072",
    venue="CIKM 2022",
    tags=("recall", "retrieval", "loss", "encoder"),
    summary=(
        "Trains a ranker beside a model of which documents people got to judge, each reweighting the other's "
        "negatives, so that relevant but unlabeled passages among the hard negatives do less harm."
    ),
)
PARTS: tuple[str, ...] = ()
