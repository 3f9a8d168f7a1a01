"""Holds a personalized concept close to its class in text-feature space while a text-to-image model is tuned on a few
pictures of it, so that it still combines with other words of a prompt."""

from palimpsest.claim import Paper

PAPER = Paper(
    "ClassDiffusion: More Aligned Personalization Tuning with Explicit Class Guidance",
    "Huang et al.",
    2024,
    arxiv="2405.17532",
    venue="ICLR 2025",
    tags=("image", "retain", "diffusion", "loss", "fine-tuning", "multimodal"),
    summary=(
        "Holds a personalized concept close to its class in text-feature space while a text-to-image model is tuned "
        "on a few pictures of it, so that it still combines with other words of a prompt."
    ),
)
PARTS: tuple[str, ...] = ()
