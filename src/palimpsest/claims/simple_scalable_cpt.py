"""Shows that a restarted learning rate and a few percent of replayed old data let a language model take in new corpora
about as well as full retraining, and offers schedules with no fixed end."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Simple and Scalable Strategies to Continually Pre-train Large Language Models",
    "Adam Ibrahim, Benjamin Therien, Kshitij Gupta et al.",
    2024,
    arxiv="2403.08763",
    venue="TMLR 2024",
    tags=("retain", "continual-learning", "schedule", "replay", "pre-training", "language-model"),
    summary=(
        "Shows that a restarted learning rate and a few percent of replayed old data let a language model take in new "
        "corpora about as well as full retraining, and offers schedules with no fixed end."
    ),
)
PARTS: tuple[str, ...] = ()
