"""Losses, optimizers, layers and selectors meet in a recipe: what goes together runs, what does not says why."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from palimpsest.recipe import RecipeError
from palimpsest.recipe_source import parse_recipe
from palimpsest.run import run

DIGITS: dict[str, Any] = {
    "model": {"pretrained": "digits-mlp", "adapter": "classifier"},
    "roles": {"task": {"zoo": "digits", "classes": [0, 1, 2, 3, 4]}},
    "objective": [{"on": "task", "cross_entropy": {}}],
    "train": {"steps": 3, "batch": 20, "lr": 1e-3},
    "audits": {"task": ["accuracy"]},
}
LLAMA: dict[str, Any] = {
    "model": {"pretrained": "tiny-llama", "max_length": 96},
    "roles": {"task": {"zoo": "authors", "people": 4, "facts": 1, "forget": 1, "part": "retain"}},
    "train": {"steps": 2, "batch": 2},
}
FEW: dict[str, Any] = {"task": {"class_batches": {"classes": 5, "rows_of_each": 4}}}


def terms(*methods: dict[str, Any] | str) -> list[dict[str, Any]]:
    return [{"on": "task", **({m: {}} if isinstance(m, str) else m)} for m in methods]


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": terms("cross_entropy", {"multi_similarity": {}, "weight": 0.1}), "select": FEW},
        {"objective": terms({"reweighted": {"objective": {"tversky": {}}}}), "select": FEW},
        {"objective": terms("dice", "lse_square"), "layers": {"multi_sample_dropout": {"samples": 2}}},
        {
            "objective": terms({"spherical_z": {"shift": 2.0}}),
            "layers": {"spherical_output": {}},
            "train": {**DIGITS["train"], "schedule": "cosine", "warmup": 0.5, "loop": "trainer"},
        },
        {
            "objective": terms({"confidence_limited": {"samples": 4}}),
            "layers": {"lost": {"targets": ["0", "2"]}},
            "train": {**DIGITS["train"], "optimizer": {"frugal": {"modules": ["0", "2"]}}, "schedule": "wsd_s"},
            "mask": {"salun": {"role": "task"}},
        },
        {
            "objective": terms("cross_entropy", {"multi_similarity": {}, "weight": 0.1}, {"reweighted": {}}),
            "layers": [{"lost": {"targets": ["0", "2"]}}, {"multi_sample_dropout": {"samples": 2}}],
            "train": {**DIGITS["train"], "schedule": "rewarm", "loop": "trainer"},
            "select": FEW,
        },
        {
            "objective": terms("spherical_z"),
            "layers": [{"multi_sample_dropout": {"samples": 2}}, "spherical_output"],
        },
        {
            "objective": terms("cross_entropy", {"general_pair_weighting": {"weighting": "triplet"}}),
            "train": {
                **DIGITS["train"],
                "optimizer": {"galore": {"rank": 4, "modules": ["0", "2"]}},
                "schedule": {"wsd": {"shape": "one_minus_sqrt"}},
            },
            "select": FEW,
        },
        {
            "objective": terms({"tversky": {"granularity": "batch"}}),
            "train": {**DIGITS["train"], "optimizer": {"badam": {"modules": ["0", "2"]}}, "schedule": "linear"},
        },
        {
            "objective": terms("dice"),
            "procedure": {"several_budgets": {"rewind": True}},
            "train": {
                **DIGITS["train"],
                "steps": 8,
                "optimizer": {"frugal": {"splitter": "columns", "modules": ["0", "2"]}},
                "schedule": {"wsd_s": {"budgets": [4, 8], "decay": 0.25}},
            },
        },
        {
            **LLAMA,
            "objective": terms({"confidence_limited": {"samples": 2}}, "spherical_z", {"dice": {}, "weight": 0.1}),
            "layers": {"lost": {"rank": 4}},
            "train": {**LLAMA["train"], "schedule": "inverse_square_root", "precision": "bfloat16"},
            "audits": {"task": [{"pass_at_n": {"n": 2, "max_new_tokens": 2}}]},
        },
        {
            "train": {
                **DIGITS["train"],
                "optimizer": {"fira": {"rank": 4, "modules": ["0", "2"]}},
                "schedule": "infinite",
            }
        },
    ],
    ids=lambda c: ", ".join(c),
)
def test_what_goes_together_runs(changes: dict[str, Any], tmp_path: Path) -> None:
    run(parse_recipe(copy.deepcopy(DIGITS) | changes), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"objective": terms("multi_similarity"), "train": {**DIGITS["train"], "accumulation": 2}},
            r"stages.0.objective.0: task/multi_similarity compares the rows .* set train.accumulation to 1\.",
        ),
        (
            {"objective": terms("cross_entropy", {"dice": {"granularity": "batch"}})}
            | {"train": {**DIGITS["train"], "accumulation": 2}},
            r"stages.0.objective.1: task/dice compares the rows .* set train.accumulation to 1\.",
        ),
        (
            {"select": FEW, "train": {**DIGITS["train"], "batch": 16}},
            r"stages.0.train.batch: .* makes batches of 20 rows, and 16 is no multiple of it; choose one\.",
        ),
        (
            {"train": {**DIGITS["train"], "schedule": "wsd", "warmup": 0.1}},
            r"The schedule WSD warms up over .* set one of the two to 0",
        ),
        (
            {"layers": "lost", "lora": {"rank": 2}},
            r"stages.0.layers: they would replace parts of what lora adds; remove one of the two\.",
        ),
        (
            {"layers": {"lost": {}, "multi_sample_dropout": {}}},
            r"stages.0.layers: name one method here, as \{name: \{…\}\}; there are 2",
        ),
        ({"layers": ["lost", "lots"]}, r"stages.0.layers.1: There is no layer 'lots'; did you mean 'lost'\?"),
        (
            {"layers": {"multi_sample_dropout": {"dropout": 0.0}}},
            r"layers.multi_sample_dropout: Without dropout all 8 samples of a row are the same; raise dropout\.",
        ),
        (
            {"objective": terms({"reweighted": {"objective": "reweighted"}})},
            r"objective.0.reweighted: the values of Reweighted here do not say .*; take one with a loss of its own",
        ),
        (
            {"objective": terms({"reweighted": {"objective": {"dice": {"granularity": "batch"}}}})},
            r"objective.0.reweighted: the values of Dice here do not say which rows have more to be learned",
        ),
        (
            {"objective": terms({"reweighted": {"objective": {"tversky": {"granularity": "batch"}}}})},
            r"objective.0.reweighted: the values of Tversky here",
        ),
        (
            {"objective": terms({"reweighted": {"objective": "general_pair_weighting"}})},
            r"objective.0.reweighted: the values of GeneralPairWeighting here",
        ),
        (
            {"objective": terms({"reweighted": {"objective": "elastic_weight_consolidation"}})},
            r"objective.0.reweighted: objective is a loss on rows, such as CrossEntropy\(\), not Elastic",
        ),
        (
            {"objective": terms({"reweighted": {"burn_in": 3}})},
            r"stages.0.objective.0: burn_in lasts 3 of 3 steps, so nothing is weighted; lower it\.",
        ),
        (
            {"objective": [*terms("cross_entropy"), {"on": "weights", "reweighted": {}}]},
            r"objective.1.on: Reweighted looks at rows, and the role weights has none; name a role that has data\.",
        ),
        (
            {"objective": terms("cross_entropy", "elastic_weight_consolidation")},
            r"objective.1.on: ElasticWeightConsolidation looks at the parameters and not at rows; it goes on the role",
        ),
        (
            {"objective": terms("reweighted"), "train": {**DIGITS["train"], "batch": 1}},
            r"stages.0.objective.0: task/reweighted compares the rows .* nothing beside it; raise train.batch\.",
        ),
        (
            {"procedure": "several_budgets", "train": {**DIGITS["train"], "schedule": "wsd"}},
            r"stages.0.procedure: several_budgets takes its budgets from train.schedule; write \{wsd_s: \{budgets",
        ),
        (
            {"procedure": "several_budgets", "train": {**DIGITS["train"], "schedule": "wsd_s"}},
            r"stages.0.procedure: The budget 0.25 ends between two of 3 steps; choose steps that it divides\.",
        ),
        (
            {"procedure": "several_budgets", "layers": "lost"}
            | {"train": {**DIGITS["train"], "steps": 40, "schedule": "wsd_s"}},
            r"stages.0.layers: a stage with a procedure trains in a loop of its own; remove one of the two\.",
        ),
        (
            {"train": {**DIGITS["train"], "schedule": {"wsd": {}, "cosine": {}}}},
            r"stages.0.train.schedule: name one method here, as \{name: \{…\}\}; there are 2",
        ),
        (
            {"train": {**DIGITS["train"], "optimizer": {"frugal": {"bits": 8}}}},
            r"stages.0.train.optimizer: frugal has no field 'bits'; it has: density, update_gap, splitter",
        ),
        (
            {"train": {**DIGITS["train"], "optimizer": "adamw_8bit"}},
            r"stages.0.train.optimizer: there is no optimizer 'adamw_8bit'; did you mean adamw\?",
        ),
    ],
)
def test_what_does_not_is_refused_before_anything_is_loaded(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        parse_recipe(copy.deepcopy(DIGITS) | changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"layers": "spherical_output"}, r"train it with spherical_z, or leave spherical_output away\."),
        (
            {"layers": "spherical_output", "objective": terms("spherical_z", "lse_square")},
            r"train it with spherical_z, or leave spherical_output away\.",
        ),
        (
            {"layers": "spherical_output", "objective": terms("spherical_z"), "mask": {"salun": {"role": "task"}}},
            r"FactoredOutput moves its own weights, which a mask would not reach; leave one of the two away\.",
        ),
        (
            {"layers": "spherical_output", "objective": terms("spherical_z"), "reference": {"slow_average": {}}},
            r"FactoredOutput moves its own weights, which a slow average would not reach; leave one",
        ),
        (
            {
                "layers": "spherical_output",
                "objective": [*terms("spherical_z"), {"on": "other", "spherical_z": {}}],
                "roles": {**DIGITS["roles"], "other": {"zoo": "digits", "classes": [5, 6]}},
                "combine": {"one_sided_projection": {"protect": "other"}},
            },
            r"FactoredOutput moves its own weights, which OneSidedProjection would not reach; leave one",
        ),
        (
            {"layers": [{"lost": {"targets": ["4"]}}, "multi_sample_dropout"]},
            r"4 was replaced before and may be the head; name the head, or put this layer first\.",
        ),
        (
            {"layers": [{"lost": {"targets": ["4"]}}, {"spherical_output": {"head": "4"}}]},
            r"4 is a LowRankSparseLinear; the factored output layer replaces a linear layer\.",
        ),
        ({"train": {**DIGITS["train"], "optimizer": "fira"}}, r"Fira finds no matrix to split: .* name parts of the"),
        (
            {"select": {"task": {"class_batches": {"classes": 10, "rows_of_each": 2}}}},
            r"task: Only 5 classes have 2 rows",
        ),
        (
            {**LLAMA, "objective": terms("multi_similarity"), "audits": {"task": ["probability"]}},
            r"a method here asks for features, which a language model does not give; take another\.",
        ),
    ],
)
def test_what_only_the_model_or_the_rows_can_tell_is_refused_with_its_place(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=sentence) as error:
        run(parse_recipe(copy.deepcopy(DIGITS) | changes), tmp_path / "out")
    assert "stages.0" in str(error.value)
