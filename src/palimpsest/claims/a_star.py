"""Guides a text-to-image model, without training, by two attention losses at each denoising step, so that the things
named in a prompt stay apart and none of them is lost on the way."""

from palimpsest.claim import Paper

PAPER = Paper(
    "A-STAR: Test-time Attention Segregation and Retention for Text-to-image Synthesis",
    "Agarwal et al.",
    2023,
    arxiv="2306.14544",
    venue="ICCV 2023",
    tags=("image", "diffusion", "inference-time", "multimodal"),
    summary=(
        "Guides a text-to-image model, without training, by two attention losses at each denoising step, so that the "
        "things named in a prompt stay apart and none of them is lost on the way."
    ),
)
PARTS: tuple[str, ...] = ()
