"""Where a run folder holds the model that its recipe leads to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from palimpsest.plans import model_folder
from palimpsest.recipe_source import parse_recipe

TEACH = {
    "name": "teach",
    "objective": [{"on": "all", "cross_entropy": {}}],
    "train": {"steps": 1, "batch": 2, "lr": 1e-3},
}
FORGET = {**TEACH, "name": "unlearn", "objective": [{"on": "forget", "npo": {}}]}
COMPANION = {
    "name": "assistant",
    "trains": "assistant",
    "starts": {"truncated_copy": {"layers": 1}},
    "objective": TEACH["objective"],
    "train": TEACH["train"],
}


def folder(*stages: Any, **more: Any) -> Path | None:
    roles = {"forget": "forget.jsonl", "retain": "retain.jsonl", "all": ["forget", "retain"]}
    recipe = {"model": {"pretrained": "tiny-llama"}, "roles": roles, "audits": {"forget": ["probability"]}}
    return model_folder(parse_recipe({**recipe, "stages": list(stages), **more}))


def test_it_is_the_last_stage_of_the_first_seed() -> None:
    assert folder(TEACH) == Path("seed-0/after/0-teach")
    assert folder(TEACH, FORGET) == Path("seed-0/after/0-unlearn")
    assert folder(TEACH, FORGET, seeds=[7, 8]) == Path("seed-7/after/0-unlearn")
    in_sequence = {
        "tasks": {"teach": "all", "unlearn": "forget"},
        "audits": {r: ["probability"] for r in ("all", "forget")},
    }
    assert folder(TEACH, FORGET, **in_sequence) == Path("seed-0/after/1-unlearn")


def test_there_is_none_where_weights_alone_are_not_the_model() -> None:
    """Behavior that an intervention changes, or a companion, does not lie in the model's weights."""
    answers = {"intervention": {"logit_difference": {"assistant": "assistant"}}}
    assert folder({**COMPANION, **answers}) is None
    assert folder(TEACH, COMPANION) is None
    assert folder(COMPANION, TEACH) == Path("seed-0/after/0-teach")
