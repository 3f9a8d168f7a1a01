"""Erases a concept from the text encoder of an image generator while an inner adversary hunts for prompts that revive
it and ordinary prompts guard image quality; the encoder then serves other generators too."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Defensive Unlearning with Adversarial Training for Robust Concept Erasure in Diffusion Models",
    "Zhang et al.",
    2024,
    arxiv="2405.15234",
    venue="NeurIPS 2024",
    tags=("image", "forget", "unlearning", "diffusion", "robustness", "safety", "multimodal"),
    summary=(
        "Erases a concept from the text encoder of an image generator while an inner adversary hunts for prompts that "
        "revive it and ordinary prompts guard image quality; the encoder then serves other generators too."
    ),
)
PARTS: tuple[str, ...] = ()
