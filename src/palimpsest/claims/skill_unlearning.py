"""Switches off a whole skill of a language model, such as math, code or one language, without training: feed-forward
neurons are shifted toward their usual activity, or queries that fall in the skill's region are declined."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Effective Skill Unlearning through Intervention and Abstention",
    "Li et al.",
    2025,
    arxiv="2503.21730",
    venue="NAACL 2025",
    tags=("forget", "unlearning", "inference-time", "language-model"),
    summary=(
        "Switches off a whole skill of a language model, such as math, code or one language, without training: "
        "feed-forward neurons are shifted toward their usual activity, or queries that fall in the skill's region are "
        "declined."
    ),
)
PARTS: tuple[str, ...] = ()
