"""Predicts from text, categories, picture and numbers when an advertisement will be taken down, with separate hazard
outputs for early and late stops, for anyone who must tell how long an item will live."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Ad Creative Discontinuation Prediction with Multi-Modal Multi-Task Neural Survival Networks",
    "Kitada, Iyatomi, Seki",
    2022,
    arxiv="2204.11588",
    venue="Applied Sciences 2022",
    tags=("learn", "loss", "survival", "multimodal"),
    summary=(
        "Predicts from text, categories, picture and numbers when an advertisement will be taken down, with separate "
        "hazard outputs for early and late stops, for anyone who must tell how long an item will live."
    ),
)
PARTS: tuple[str, ...] = ()
