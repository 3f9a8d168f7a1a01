"""Erases a concept from a text-to-image model in seconds by raising the denoising loss of a handful of pictures while
only parts of the text encoder move, so that its name slides to a related concept."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Erasing Concepts from Text-to-Image Diffusion Models with Few-shot Unlearning",
    "Fuchi & Takagi",
    2024,
    arxiv="2405.07288",
    venue="BMVC 2024",
    tags=("image", "forget", "unlearning", "diffusion", "loss", "multimodal"),
    summary=(
        "Erases a concept from a text-to-image model in seconds by raising the denoising loss of a handful of "
        "pictures while only parts of the text encoder move, so that its name slides to a related concept."
    ),
)
PARTS: tuple[str, ...] = ()
