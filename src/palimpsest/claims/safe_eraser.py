"""Unlearns harmful picture-and-question pairs in a vision-language model while training each question with a harmless
picture as well, so that refusals do not hang on the wording; a benchmark comes with it."""

from palimpsest.claim import Paper

PAPER = Paper(
    "SafeEraser: Enhancing Safety in Multimodal LLMs through Multimodal Machine Unlearning",
    "Chen, Deng et al.",
    2025,
    arxiv="2502.12520",
    venue="Findings of ACL 2025",
    tags=("forget", "unlearning", "safety", "loss", "benchmark", "multimodal"),
    summary=(
        "Unlearns harmful picture-and-question pairs in a vision-language model while training each question with a "
        "harmless picture as well, so that refusals do not hang on the wording; a benchmark comes with it."
    ),
)
PARTS: tuple[str, ...] = ()
