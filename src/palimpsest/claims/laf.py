"""Makes a classifier forget samples or a class when no labels are at hand: two small autoencoders tell the features to
drive away from those to hold, and a contrastive step repairs what was disturbed."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Label-Agnostic Forgetting: A Supervision-Free Unlearning in Deep Models",
    "Shen et al.",
    2024,
    arxiv="2404.00506",
    venue="ICLR 2024",
    tags=("forget", "unlearning", "loss", "classifier"),
    summary=(
        "Makes a classifier forget samples or a class when no labels are at hand: two small autoencoders tell the "
        "features to drive away from those to hold, and a contrastive step repairs what was disturbed."
    ),
)
PARTS: tuple[str, ...] = ()
