"""What a recipe means: its terms, roles, baselines, companions, adapters and seeds; it is written as it was."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from palimpsest import zoo
from palimpsest.loaded import load_model
from palimpsest.loop import Training, steps_of
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.npo import NPO
from palimpsest.plans import plans
from palimpsest.recipe import Lora, Recipe, RecipeError, Stage, plain, to_yaml
from palimpsest.recipe_parts import compile_baselines, compile_objective, compile_training
from palimpsest.recipe_source import load_recipe, parse_recipe
from palimpsest.report import Report
from palimpsest.role_data import fingerprints, load_roles
from palimpsest.roles import Roles
from palimpsest.run import run
from palimpsest.shared_rows import training_roles
from palimpsest.stage import Trained, run_stage
from palimpsest.yaml_text import parse

FILES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
AUTHORS = {"zoo": "authors", "people": 4, "facts": 2, "forget": 1}
LEARN = {"objective": [{"on": "authors", "cross_entropy": {}}], "train": {"steps": 3, "batch": 4, "lr": 3e-3}}
FORGET = {
    "name": "forgetting",
    "objective": [{"on": "forget", "npo": {"beta": 0.2}}, {"on": "retain", "cross_entropy": {}, "weight": 2}],
    "train": {"steps": 2, "batch": 2, "lr": 1e-3},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The zoo's tiny-llama, saved once."""
    from palimpsest.zoo.models import tiny_llama

    folder = tmp_path_factory.mktemp("tiny-llama")
    for part in tiny_llama():
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def raw(tiny: str) -> dict[str, Any]:
    """A recipe of two stages on a union and its parts."""
    return copy.deepcopy(
        {
            "name": "small",
            "model": {"pretrained": tiny, "max_length": 64},
            "roles": {
                "forget": {**AUTHORS, "part": "forget"},
                "retain": {**AUTHORS, "part": "retain"},
                "authors": ["forget", "retain"],
            },
            "stages": [{"name": "teach", **LEARN}, FORGET],
            "audits": {"forget": ["probability"], "retain": ["probability"]},
        }
    )


def scores(report: Report, role: str = "forget") -> dict[str, float]:
    return {s.run: s.value for s in report.scores if s.role == role}


def test_terms_are_compiled_as_written() -> None:
    stage = Stage(
        "x",
        [
            {"on": "forget", "npo": {"beta": 0.2}, "weight": -2},
            {"on": "retain", "cross_entropy": None},
            {"on": "retain", "kl_to_reference": {}, "weight": {"ramp": {"start": 1.0, "end": 3.0}}},
            {"on": ["forget", "refusal"], "preference": {}},
        ],
    )
    total = compile_objective(stage, "stages.0")
    assert total is not None
    first, second, third, fourth = total.terms
    assert first.objective == NPO(beta=0.2) and first.weight_at(0.7) == -2.0 and first.role == ("forget",)
    assert second.objective == CrossEntropy() and second.weight == 1.0
    assert [third.weight_at(p) for p in (0.0, 0.5, 1.0)] == [1.0, 2.0, 3.0]
    assert fourth.role == ("forget", "refusal") and total.roles == ("forget", "retain", "refusal")
    assert [t.name for t in total.terms][:2] == ["forget/npo", "retain/cross_entropy"]
    assert compile_objective(Stage("edit only", edit="fila"), "x") is None


def test_training_settings_are_compiled() -> None:
    stage = Stage("x", train={"epochs": 2, "lr": 1e-3, "schedule": {"cosine": {"floor": 0.5}}, "optimizer": "sgd"})
    training = compile_training(stage, "x")
    assert training.optimizer == "sgd" and training.schedule is not None
    assert training.schedule(0.0) == 1.0 and training.schedule(1.0) == pytest.approx(0.5)


def test_a_recipe_of_one_stage_may_write_it_at_the_top(raw: dict[str, Any]) -> None:
    whole = {**raw, "stages": [{**FORGET, "name": "train"}]}
    del raw["stages"]
    assert parse_recipe(raw | {k: FORGET[k] for k in ("objective", "train")}) == parse_recipe(whole)
    one = {**FORGET}
    del one["name"]
    recipe = parse_recipe({**whole, "variants": {"half": one}})
    assert recipe.variants["half"][0].name == "half"


def test_overrides_replace_one_value(raw: dict[str, Any]) -> None:
    before = copy.deepcopy(raw)
    recipe = parse_recipe(
        raw,
        [
            "stages.1.objective.0.npo.beta=0.5",
            "stages.1.train={steps: 7, lr: 1e-2}",
            "seeds=[3]",
            "title=a: b".replace(": ", ""),
        ],
    )
    assert recipe.stages[1].objective[0]["npo"] == {"beta": 0.5} and recipe.seeds == [3] and recipe.title == "ab"
    assert recipe.stages[1].train == {"steps": 7, "lr": 0.01}
    assert raw == before  # the given data is left alone
    raw["stages"][1]["lora"] = None
    assert parse_recipe(raw, ["stages.1.lora.rank=4"]).stages[1].lora == Lora(rank=4)


@pytest.mark.parametrize("file", FILES, ids=[f.stem for f in FILES])
def test_the_resolved_recipe_is_the_recipe(file: Path) -> None:
    recipe = load_recipe(file)
    assert parse_recipe(parse(to_yaml(recipe))) == recipe
    assert parse_recipe(plain(recipe)) == recipe
    assert to_yaml(parse_recipe(parse(to_yaml(recipe)))) == to_yaml(recipe)
    audit = load_recipe(file, audit_only=True)
    assert not audit.stages and not audit.baselines and not audit.expect and audit.audits == recipe.audits
    assert parse_recipe(plain(audit), audit_only=True) == audit


def test_unions_hold_the_rows_of_their_roles(raw: dict[str, Any]) -> None:
    rows, answers = load_roles(parse_recipe(raw))
    assert list(rows) == ["forget", "retain", "authors"] and not answers
    assert rows["authors"] == rows["forget"] + rows["retain"] and len(rows["authors"]) == 8
    stages = parse_recipe(raw).stages
    assert training_roles(stages[:1], raw["roles"]) == {"authors", "forget", "retain"}


def test_answers_are_paired_with_their_role(raw: dict[str, Any], tmp_path: Path) -> None:
    """From a list, a text file, a file of rows, and the zoo; drawn item by item in the order of their role."""
    (tmp_path / "no.txt").write_text("No.\n\nNever.\n")
    (tmp_path / "no.jsonl").write_text('{"say": "No."}\n{"say": "Never."}\n')
    (tmp_path / "bad.jsonl").write_text('{"tell": "No."}\n')
    raw["roles"] |= {
        "listed": {"answers": ["No.", "Never."], "to": "forget"},
        "text": {"answers": "no.txt", "to": "forget"},
        "rows": {"answers": "no.jsonl", "to": "forget", "column": "say"},
        "zoo": {"answers": "refusals", "to": "forget"},
    }
    recipe = parse_recipe(raw)
    rows, answers = load_roles(recipe, tmp_path)
    assert answers["listed"].values == answers["text"].values == answers["rows"].values == ("No.", "Never.")
    assert len(answers["zoo"].values) > 10 and all(isinstance(v, str) for v in answers["zoo"].values)
    assert len(fingerprints(rows, answers)) == len(raw["roles"])
    loaded = load_model(recipe)
    roles = Roles(loaded.adapter, rows, answers=answers)
    batch = roles.window(3, 4, seed=1, roles=("forget", "listed"))[0]
    assert torch.equal(batch["forget"]["index"], batch["listed"]["index"])
    said = {
        int(i): loaded.adapter.tokenizer.decode(x)
        for i, x in zip(batch["listed"]["index"], batch["listed"]["input_ids"])
    }
    for index, text in said.items():
        assert rows["forget"][index]["prompt"] in text and ("No." in text or "Never." in text)
    raw["roles"]["rows"]["answers"] = "bad.jsonl"
    with pytest.raises(
        RecipeError, match=r"roles\.rows: bad\.jsonl has no column 'say'; name the right one with column"
    ):
        load_roles(parse_recipe(raw), tmp_path)


def test_retrain_repeats_the_stages_before_the_last_without_the_forget_set(raw: dict[str, Any]) -> None:
    raw["roles"]["general"] = {"zoo": "general_text", "rows": 4}
    raw["stages"] = [
        {
            "name": "teach",
            "objective": [
                {"on": "authors", "cross_entropy": {}},
                {"on": "general", "cross_entropy": {}, "weight": 0.5},
            ],
            "train": {"epochs": 3, "batch": 2, "lr": 1e-3},
        },
        {"name": "again", "objective": [{"on": "forget", "cross_entropy": {}}], "train": {"steps": 5, "lr": 1e-3}},
        FORGET,
    ]
    raw["baselines"] = ["retrain"]
    recipe = parse_recipe(raw)
    (retrained,) = compile_baselines(recipe)
    assert (retrained.name, retrained.label, retrained.start) == ("retrained", "retrained on retain", "pretrained")
    assert [s.name for s in retrained.stages] == ["teach", "again"]
    assert [t["on"] for t in retrained.stages[0].objective] == ["retain", "general"]
    assert retrained.stages[0].objective[1]["weight"] == 0.5
    assert [t["on"] for t in retrained.stages[1].objective] == ["retain"]
    assert recipe.stages[0].objective[0]["on"] == "authors"  # the recipe itself is left alone
    rows, answers = load_roles(recipe)
    roles = Roles(load_model(recipe).adapter, rows, answers=answers)
    steps = [
        steps_of(compile_training(s, "x"), roles, compile_objective(s, "x"))  # type: ignore[arg-type]
        for s in (recipe.stages[0], *retrained.stages)
    ]
    assert steps == [12, 9, 5]  # 3 rounds of 8 rows by 2, of 6 rows by 2; a number of steps stays
    raw["baselines"] = [{"retrain": {"on": "general", "train": {"steps": 1, "lr": 1e-3}}}]
    (other,) = compile_baselines(parse_recipe(raw))
    assert other.stages[0].objective[0]["on"] == "general" and other.stages[1].train == {"steps": 1, "lr": 1e-3}


@pytest.mark.parametrize(
    ("terms", "left"),
    [
        ([("forget", "cross_entropy", 1.0), ("retain", "cross_entropy", 0.5)], [("retain", "cross_entropy", 0.5)]),
        ([("forget", "npo", 1.0), ("retain", "kl_to_reference", 1.0)], [("retain", "kl_to_reference", 1.0)]),
        ([("authors", "cross_entropy", 1.0), ("forget", "cross_entropy", 2.0)], [("retain", "cross_entropy", 1.0)]),
        (
            [("authors", "cross_entropy", 1.0), ("forget", "npo", 1.0), ("retain", "kl_to_reference", 0.5)],
            [("retain", "cross_entropy", 1.0), ("retain", "kl_to_reference", 0.5)],
        ),
        (
            [("authors", "cross_entropy", 1.0), ("authors", "uniform", 0.1), ("general", "uniform", 0.2)],
            [("retain", "cross_entropy", 1.0), ("retain", "uniform", 0.1), ("general", "uniform", 0.2)],
        ),
    ],
)
def test_a_retrained_stage_trains_on_what_is_kept_once(raw: dict[str, Any], terms: list, left: list) -> None:
    """Beside a term on the retain set one on the forget set is dropped: it would be the same again, or an ascent.

    One on both at once is not, unless it would be the same again: what is left of it may be all that teaches.
    """
    raw["roles"]["general"] = {"zoo": "general_text", "rows": 4}
    objective = [{"on": role, method: {}, "weight": weight} for role, method, weight in terms]
    raw["stages"] = [{"name": "first", "objective": objective, "train": {"steps": 1, "lr": 1e-3}}, FORGET]
    raw["baselines"] = ["retrain"]
    (retrained,) = compile_baselines(parse_recipe(raw))
    expected = [{"on": role, method: {}, "weight": weight} for role, method, weight in left]
    assert retrained.stages[0].objective == expected


def test_what_compares_the_forget_set_with_others_cannot_be_retrained(raw: dict[str, Any]) -> None:
    pair = {"on": ["retain", "forget"], "balanced_threshold_margin": {}}
    raw["stages"] = [{"name": "first", "objective": [pair], "train": {"steps": 1, "lr": 1e-3}}, FORGET]
    raw["baselines"] = ["retrain"]
    with pytest.raises(
        RecipeError, match=r"^baselines\.0: retrain cannot tell what the stage 'first' would be without"
    ):
        parse_recipe(raw)


def test_the_other_baselines(raw: dict[str, Any]) -> None:
    raw["baselines"] = ["do_nothing", {"gradient_ascent": {"retain_weight": 0.5}}, "fine_tune"]
    nothing, ascent, tuned = compile_baselines(parse_recipe(raw))
    assert nothing.stages == () and nothing.start == ascent.start == tuned.start == "before"
    assert ascent.stages[0].objective == [
        {"on": "forget", "gradient_ascent": {}},
        {"on": "retain", "cross_entropy": {}, "weight": 0.5},
    ]
    assert ascent.stages[0].train == tuned.stages[0].train == FORGET["train"]
    assert tuned.stages[0].objective == [{"on": "retain", "cross_entropy": {}}]
    assert [(p.name, p.kind, p.start, p.places) for p in plans(parse_recipe(raw))] == [
        ("before", "before", "pretrained", ("stages.0",)),
        ("after", "after", "before", ("stages.1",)),
        ("do_nothing", "baseline", "before", ()),
        ("gradient_ascent", "baseline", "before", ("baselines.gradient_ascent.0",)),
        ("fine_tune", "baseline", "before", ("baselines.fine_tune.0",)),
    ]


ASSISTANT = {
    "name": "assistant",
    "trains": "assistant",
    "starts": {"truncated_copy": {"layers": 1, "rank": 0}},
    "objective": [{"on": "forget", "cross_entropy": {}}, {"on": "retain", "uniform": {}}],
    "train": {"steps": 4, "batch": 2, "lr": 1e-2},
}
SUBTRACT = {"name": "subtract", "intervention": {"logit_difference": {"alpha": 0.8, "top_logit_filter": 0.0}}}


def test_a_variant_of_a_companion_and_an_intervention(raw: dict[str, Any], tmp_path: Path) -> None:
    """The assistant is trained beside the model, which stays as it was; only the variant answers differently."""
    raw["variants"] = {"difference": [ASSISTANT, SUBTRACT]}
    raw["baselines"] = ["do_nothing", "retrain"]
    report = run(parse_recipe(raw), tmp_path / "out")
    runs = {r.name: r for r in report.runs}
    (assistant,) = runs["difference"].companions
    assert assistant["name"] == "assistant" and assistant["parameters"] > 0 and runs["difference"].steps == 4
    assert not runs["after"].companions and not runs["retrained"].companions
    found = scores(report)
    assert found["difference"] < 0.95 * found["before"]  # it was trained on forget, and is subtracted
    assert found["do_nothing"] == found["before"] != found["after"]
    home = tmp_path / "out" / "seed-0" / "difference"
    assert sorted(p.name for p in home.iterdir()) == ["0-assistant", "scores.jsonl"]
    for left in ("seed-0/difference/scores.jsonl", "report.json", "report.html"):  # the companion is read from disk
        (tmp_path / "out" / left).unlink()
    assert scores(run(parse_recipe(raw), tmp_path / "out")) == found


def test_a_companion_of_an_earlier_stage_serves_the_last_one(raw: dict[str, Any], tmp_path: Path) -> None:
    """The same stages as the recipe's own: what was made before the last stage is there for it, and for variants."""
    raw["variants"] = {"difference": [ASSISTANT, SUBTRACT]}
    alone = scores(run(parse_recipe(raw), tmp_path / "variant"))
    raw["stages"] = [raw["stages"][0], ASSISTANT, SUBTRACT]
    raw["variants"] = {"weaker": {"intervention": {"logit_difference": {"alpha": 0.1, "top_logit_filter": 0.0}}}}
    found = scores(run(parse_recipe(raw), tmp_path / "own"))
    assert found["after"] == alone["difference"] and found["before"] == alone["before"]
    assert found["after"] < found["weaker"] < found["before"]


def test_a_missing_companion_is_a_sentence(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["stages"] = [{"name": "subtract", "intervention": "logit_difference"}]
    with pytest.raises(
        RecipeError, match=r"stages\.0\.intervention: no earlier stage trains a companion 'assistant'; add one"
    ):
        run(parse_recipe(raw), tmp_path / "out")
    raw["stages"] = [{**ASSISTANT, "starts": {"truncated_copy": {"layers": 9}}}]
    with pytest.raises(RecipeError, match=r"stages\.0\.starts: The model has 2 blocks, so a copy cannot have 9"):
        run(parse_recipe(raw), tmp_path / "second")
    raw["stages"] = [{**ASSISTANT, "starts": "request_sweep"}]
    with pytest.raises(RecipeError, match=r"stages\.0"):
        run(parse_recipe(raw), tmp_path / "third")


@pytest.mark.parametrize("kind", ["causal_lm", "classifier"])
def test_a_lora_stage_leaves_a_plain_trainable_model(raw: dict[str, Any], tmp_path: Path, kind: str) -> None:
    stage = {"name": "lora", "lora": {"rank": 2}, "train": {"steps": 3, "batch": 4, "lr": 1e-2}}
    stage["objective"] = [{"on": "retain", "cross_entropy": {}}]
    raw["stages"] = [stage]
    if kind == "classifier":
        raw["model"] = {"pretrained": "digits-mlp", "adapter": "classifier"}
        raw["roles"] = {"retain": {"zoo": "digits", "classes": [1, 2]}}
        raw["audits"] = {"retain": ["accuracy"]}
    recipe = parse_recipe(raw)
    loaded = load_model(recipe)
    before = {n: p.detach().clone() for n, p in loaded.model.named_parameters()}
    modules = [type(m) for m in loaded.model.modules()]
    rows, answers = load_roles(recipe)
    roles = Roles(loaded.adapter, rows, answers=answers)
    outcome = run_stage(
        recipe.stages[0], "stages.0", Trained(loaded.model, {}, []), roles, seed=0, folder=tmp_path / "stage"
    )
    assert [type(m) for m in loaded.model.modules()] == modules
    after = dict(loaded.model.named_parameters())
    assert list(after) == list(before) and all(p.requires_grad for p in after.values())
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    matrices = {n for n, p in before.items() if p.ndim == 2 and "embed" not in n}
    assert moved == matrices  # no norm, bias or embedding; of the rest, all
    for name in moved:
        assert int(torch.linalg.matrix_rank((after[name] - before[name]).detach(), rtol=1e-3)) <= 2
    assert outcome.trainable_parameters == sum(2 * sum(before[n].shape) for n in matrices)
    again = load_model(recipe)
    run_stage(recipe.stages[0], "stages.0", Trained(again.model, {}, []), roles, seed=0, folder=tmp_path / "stage")
    assert all(torch.equal(p, after[n]) for n, p in again.model.named_parameters())  # read back, not trained again


def test_lora_of_layers_that_are_not_there(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["stages"][0]["lora"] = {"targets": ["nothing"]}
    with pytest.raises(RecipeError, match=r"stages\.0\.lora\.targets: "):
        run(parse_recipe(raw), tmp_path / "out")


def test_adapter_off_and_the_copy_are_the_same_reference(raw: dict[str, Any], tmp_path: Path) -> None:
    found = []
    for reference in ("adapter_off", "copy", "cached"):
        raw["stages"][1] |= {"lora": {"rank": 2}, "reference": reference}
        found.append(scores(run(parse_recipe(raw), tmp_path / reference)))
    assert found[0]["after"] == pytest.approx(found[1]["after"], rel=1e-5)
    assert found[2]["after"] == pytest.approx(found[1]["after"], rel=1e-5)
    assert found[0]["after"] != found[0]["before"]


def test_seeds_are_a_second_level(raw: dict[str, Any], tmp_path: Path) -> None:
    """One figure a seed, each that of the seed alone; the report's is their mean."""
    raw["baselines"] = ["do_nothing", "gradient_ascent"]
    together = run(parse_recipe(raw, ["seeds=[0, 1]"]), tmp_path / "both")
    alone = [run(parse_recipe(raw, [f"seeds=[{s}]"]), tmp_path / str(s)) for s in (0, 1)]
    assert together.seeds == (0, 1)
    for index, score in enumerate(together.scores):
        own = [report.scores[index].value for report in alone]
        assert score.per_seed == pytest.approx(own, rel=1e-12)
        assert score.value == pytest.approx(sum(own) / 2, rel=1e-12)
        assert score.low <= score.value <= score.high
    after = next(s for s in together.scores if s.run == "after")
    assert after.per_seed[0] != after.per_seed[1]
    assert sorted(p.name for p in (tmp_path / "both").glob("seed-*")) == ["seed-0", "seed-1"]


def test_a_mask_and_a_classifier_in_one_stage(tmp_path: Path) -> None:
    """SalUn's mask under random labels: exactly half of the weights move."""
    recipe = parse_recipe(
        {
            "model": {"pretrained": "digits-mlp", "adapter": "classifier"},
            "roles": {"forget": {"zoo": "digits", "classes": [3]}},
            "mask": {"salun": {"fraction": 0.5}},
            "objective": [{"on": "forget", "random_label": {}}],
            "train": {"steps": 3, "batch": 8, "lr": 1e-2, "optimizer": "sgd", "weight_decay": 0.1},
            "audits": {"forget": ["accuracy"]},
        }
    )
    run(recipe, tmp_path / "out")
    from palimpsest.checkpoint import read_tensors

    trained, _ = read_tensors(tmp_path / "out" / "seed-0" / "after" / "0-train" / "model.safetensors")
    first = load_model(recipe).model.state_dict()
    moved = sum(int((trained[n] != first[n]).sum()) for n in first)
    total = sum(v.numel() for v in first.values())
    assert moved <= total // 2 and moved > total // 4


def test_the_report_of_an_audit(raw: dict[str, Any], tmp_path: Path) -> None:
    report = run(parse_recipe(raw, audit_only=True), tmp_path / "out")
    assert [r.name for r in report.runs] == ["before"] and len(report.scores) == 2
    assert not list((tmp_path / "out").rglob("*.safetensors"))
    assert parse_recipe(parse(report.recipe), audit_only=True) == parse_recipe(raw, audit_only=True)


def test_the_data_of_a_run_is_known_again(raw: dict[str, Any], tmp_path: Path) -> None:
    """Digests depend on content alone: not on the order of columns, not on where an object lies in memory."""
    rows = [{"a": 1, "b": torch.tensor([1.0, 2.0])}, {"a": 2, "b": [object()]}]
    same = [{"b": [1.0, 2.0], "a": 1}, {"b": [object()], "a": 2}]
    first = fingerprints({"x": rows}, {})
    assert fingerprints({"x": same}, {}) == first
    assert fingerprints({"x": same[::-1]}, {}) != first
    assert fingerprints({"x": [{**rows[0], "a": 3}, rows[1]]}, {}) != first
    run(parse_recipe(raw, audit_only=True), tmp_path / "out")
    assert set(json.loads((tmp_path / "out" / "data.json").read_text())) == {"forget", "retain", "authors"}


def test_training_is_a_frozen_schema() -> None:
    """The keys of a stage and of its training are part of the recipe's format; a change here is a change of it."""
    import dataclasses

    assert [f.name for f in dataclasses.fields(Stage)] == [
        *("name", "objective", "train", "select", "lora", "layers", "edit", "mask", "intervention", "procedure"),
        *("combine", "watch", "reference", "trains", "starts"),
    ]
    assert [f.name for f in dataclasses.fields(Recipe)] == [
        *("model", "roles", "stages", "audits", "name", "title", "tasks", "chance", "variants", "baselines", "expect"),
        "seeds",
    ]
    assert {"epochs", "steps", "batch", "lr", "optimizer", "schedule", "checkpoint_every"} <= {
        f.name for f in dataclasses.fields(Training)
    }
    assert zoo.load({"zoo": "digits", "classes": [3]})[0]["label"] == 3
