"""Learns one prototype per class beside a contrastive encoder and preserves how old prototypes relate to new samples,
so that image classifiers can learn task after task without stored data."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Prototype-Sample Relation Distillation: Towards Replay-Free Continual Learning",
    "Nader Asadi et al.",
    2023,
    arxiv="2303.14771",
    venue="ICML 2023",
    tags=("retain", "continual-learning", "distillation", "loss", "classifier"),
    summary=(
        "Learns one prototype per class beside a contrastive encoder and preserves how old prototypes relate to new "
        "samples, so that image classifiers can learn task after task without stored data."
    ),
)
PARTS: tuple[str, ...] = ()
