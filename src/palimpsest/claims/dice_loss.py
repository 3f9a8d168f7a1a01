"""Trains taggers, span finders and pair classifiers on a soft F1 score that plays down easy examples, for text tasks
where negative examples far outnumber positive ones."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Dice Loss for Data-imbalanced NLP Tasks",
    "Li et al.",
    2019,
    arxiv="1911.02855",
    venue="ACL 2020",
    tags=("learn", "loss", "imbalance", "language-model"),
    summary=(
        "Trains taggers, span finders and pair classifiers on a soft F1 score that plays down easy examples, for text "
        "tasks where negative examples far outnumber positive ones."
    ),
)
PARTS: tuple[str, ...] = ()
