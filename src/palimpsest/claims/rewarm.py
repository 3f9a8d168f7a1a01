"""Studies how to restart the learning rate of a finished language model for a new corpus, and finds that raising and
decaying it once more pays off in the end despite a passing rise in loss."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Continual Pre-Training of Large Language Models: How to (re)warm your model?",
    "Kshitij Gupta, Benjamin Therien, Adam Ibrahim et al.",
    2023,
    arxiv="2308.04014",
    tags=("retain", "continual-learning", "schedule", "pre-training", "language-model"),
    summary=(
        "Studies how to restart the learning rate of a finished language model for a new corpus, and finds that "
        "raising and decaying it once more pays off in the end despite a passing rise in loss."
    ),
)
PARTS: tuple[str, ...] = ()
