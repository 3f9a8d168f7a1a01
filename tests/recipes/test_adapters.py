"""LoRA from stage to stage: an adapter that goes on, its slow average, one that is merged, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from palimpsest import low_rank, reference
from palimpsest.loaded import load_model
from palimpsest.loop import Interrupted, Progress, Training, fit
from palimpsest.low_rank import ADAPTER, AVERAGE, attach, merge, without_adapter
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.recipe import Lora, Recipe, RecipeError, to_yaml
from palimpsest.recipe_source import parse_recipe
from palimpsest.reference import SlowAverage
from palimpsest.role_data import load_roles
from palimpsest.roles import Roles
from palimpsest.run import run
from palimpsest.stage import Trained, run_stage
from palimpsest.yaml_text import parse

PEOPLE = {"zoo": "authors", "people": 4, "facts": 2, "forget": 2}
STEPS, RATE = 4, 0.1
Weights = dict[str, Tensor]
SLOW = {"decay": 0.8, "warm": True}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The zoo's tiny-llama, saved once."""
    from palimpsest.zoo.models import tiny_llama

    folder = tmp_path_factory.mktemp("tiny-llama")
    for part in tiny_llama(300, 2, 32):
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def raw(tiny: str) -> dict[str, Any]:
    """Two tasks, the second of which goes on with the adapter of the first."""

    def stage(name: str, **lora: Any) -> dict[str, Any]:
        train = {"steps": STEPS, "batch": 4, "lr": RATE, "optimizer": "sgd", "checkpoint_every": 1}
        objective = [{"on": name, "cross_entropy": {}}]
        return {"name": name, "objective": objective, "train": train, "lora": {"rank": 2, "dropout": 0.1, **lora}}

    return {
        "model": {"pretrained": tiny, "max_length": 128},
        "roles": {"first": {**PEOPLE, "part": "forget"}, "second": {**PEOPLE, "part": "retain"}},
        "stages": [stage("first"), stage("second", continues=True)],
        "audits": {"first": ["probability"], "second": ["probability"]},
    }


def weights(model: nn.Module) -> Weights:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def near(found: Weights, wanted: Weights) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-6, msg=name)  # one addition each way


def stages(recipe: Recipe, folder: Path, stop: tuple[int, int] | None = None) -> tuple[Trained, list[Weights]]:
    """All stages of a recipe: what they leave, and the weights after each; ``stop`` is (stage, step)."""
    rows, answers = load_roles(recipe)
    loaded = load_model(recipe)
    roles, trained, after = Roles(loaded.adapter, rows, answers=answers), Trained(loaded.model, {}, []), []
    for number, stage in enumerate(recipe.stages):

        def interrupt(progress: Progress, number: int = number) -> None:
            if (number, progress.step) == stop:
                raise KeyboardInterrupt

        place, own = f"stages.{number}", folder / f"{number}"
        run_stage(stage, place, trained, roles, seed=0, folder=own, on_step=interrupt)
        after.append(weights(trained.model))
    return trained, after


def by_hand(recipe: Recipe, slow: bool) -> list[Weights]:
    """The same as calls of ``fit`` on one adapter that stays where it is; merged into a copy after each stage."""
    rows, _ = load_roles(recipe)
    loaded = load_model(recipe)
    roles = Roles(loaded.adapter, rows)
    working = attach(loaded.model, Lora(rank=2, dropout=0.1), {}, 0, "lora")
    average = SlowAverage(working, **SLOW) if slow else None  # type: ignore[arg-type]
    after = []
    for role in ("first", "second"):
        training = Training(steps=STEPS, batch=4, lr=RATE, optimizer="sgd")
        fit(working, roles, on(role, CrossEntropy()), training, seed=0, reference=average)
        shown = copy.deepcopy(working)
        if average is not None:
            average.copy_to(shown)
        merged = shown.merge_and_unload()  # type: ignore[operator]
        after.append(weights(merged))
    return after


@pytest.mark.parametrize("slow", [False, True])
def test_an_adapter_that_goes_on_is_one_adapter(raw: dict[str, Any], tmp_path: Path, slow: bool) -> None:
    """With a slow average, the stages leave that one while the fast adapter is trained on: I-LoRA as published."""
    if slow:
        for stage in raw["stages"]:
            stage["reference"] = {"slow_average": {**SLOW, "ends": "slow"}}
    recipe = parse_recipe(raw)
    trained, found = stages(recipe, tmp_path)
    for own, wanted in zip(found, by_hand(recipe, slow), strict=True):
        near(own, wanted)
    assert (AVERAGE in trained.states) == slow
    if slow:
        assert int(trained.states[AVERAGE]["steps"]) == 2 * STEPS, "steps count over the whole run"


def test_a_new_adapter_is_another_one(raw: dict[str, Any], tmp_path: Path) -> None:
    """Not a copy of the first: its A is drawn anew and its B is 0, so the model is as the first stage left it."""
    trained, (first,) = stages(parse_recipe({**raw, "stages": raw["stages"][:1]}), tmp_path)
    state, model = trained.states, trained.model
    own = {n.removeprefix("trained/"): v for n, v in state[ADAPTER].items() if n.startswith("trained/")}
    fresh = attach(model, Lora(rank=2), state, 0, "lora")
    for name, parameter in fresh.named_parameters():
        if "lora_A" in name:
            assert not torch.allclose(parameter, own[name], atol=0.05)
        elif "lora_B" in name:
            assert not parameter.any() and own[name].any()
    merge(fresh, model)
    assert all(torch.equal(v, first[n]) for n, v in weights(model).items())


@pytest.mark.parametrize("stop", [(0, 2), (1, 1), (1, 3)])
def test_a_stopped_run_ends_with_the_same_bits(raw: dict[str, Any], tmp_path: Path, stop: tuple[int, int]) -> None:
    """The factors, both ways, and the average with its count; and once more when all stages are read back."""
    for stage in raw["stages"]:
        stage["reference"] = {"slow_average": {**SLOW, "ends": "slow"}}
    recipe = parse_recipe(raw)
    whole, (_, wanted) = stages(recipe, tmp_path / "whole")
    with pytest.raises(Interrupted):
        stages(recipe, tmp_path / "stopped", stop)
    for _ in range(2):
        trained, (_, found) = stages(recipe, tmp_path / "stopped")
        assert all(torch.equal(v, wanted[n]) for n, v in found.items())
        assert {m: sorted(s) for m, s in trained.states.items()} == {m: sorted(s) for m, s in whole.states.items()}


def test_a_stopped_stage_goes_on_where_its_adapter_is_taken_out_with_another_rounding(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another device: the stage knows its model by the weights that lie on the disk. They are read once."""
    raw["stages"][1]["objective"] = [{"on": "second", "npo": {}}]
    recipe = parse_recipe(raw)
    with pytest.raises(Interrupted):
        stages(recipe, tmp_path, (1, 2))
    file, took, read, opened = tmp_path / "1" / "reference.safetensors", low_rank._take_up, reference.read_tensors, []

    def rounded(wrapped: nn.Module, *others: Any) -> None:
        took(wrapped, *others)
        with torch.no_grad():
            for name, value in wrapped.named_parameters():
                if "base_layer" in name:
                    value.mul_(1 + 1e-6)

    def look(path: Path) -> Any:
        opened.append(path)
        return read(path)

    monkeypatch.setattr(low_rank, "_take_up", rounded)
    monkeypatch.setattr(reference, "read_tensors", look)
    stages(recipe, tmp_path)
    assert opened == [file]


def test_variants_go_on_from_the_same_adapter(raw: dict[str, Any], tmp_path: Path) -> None:
    """An adapter kept by the trunk serves every last stage; one that is merged for good is the same at first."""
    again = copy.deepcopy(raw["stages"][1])
    raw["variants"] = {"again": [again], "new": [{**again, "lora": {"rank": 2}}]}
    report = run(parse_recipe(raw), tmp_path)
    value = {s.run: s.value for s in report.scores if s.role == "second"}
    assert value["again"] == value["after"] != value["new"]


def test_reg_lora_counts_the_positions_of_merged_adapters(raw: dict[str, Any], tmp_path: Path) -> None:
    for stage in raw["stages"]:
        stage["lora"] = {"rank": 2}
        stage["objective"].append({"on": "weights", "reg_lora": {"fraction": 0.1}, "weight": 1.0})
    recipe = parse_recipe(raw)
    trained, _ = stages(recipe, tmp_path)
    assert any(name.startswith("positions/") for name in trained.states["reg_lora"])
    raw["stages"][1]["lora"]["continues"] = True
    with pytest.raises(RecipeError, match=r"stages\.1: RegLoRA needs a fresh adapter in every stage"):
        stages(parse_recipe(raw), tmp_path / "kept")


def test_only_the_number_of_adapters_outlives_another_stage() -> None:
    states = {ADAPTER: {"trained/a": torch.ones(1), "number": torch.tensor(2)}, AVERAGE: {}, "ewc": {}}
    assert without_adapter(states) == {"ewc": {}, ADAPTER: {"number": torch.tensor(2)}}
    assert without_adapter({"ewc": {}}) == {"ewc": {}}


def test_it_is_written_as_it_was(raw: dict[str, Any]) -> None:
    recipe = parse_recipe(raw)
    assert parse_recipe(parse(to_yaml(recipe))) == recipe and recipe.stages[1].lora == Lora(2, 16.0, 0.1, None, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages.0.lora.continues": True}, r"^stages\.0\.lora\.continues: the stage before it has no adapter"),
        ({"stages.0.lora": None}, r"^stages\.1\.lora\.continues: the stage before it has no adapter"),
        ({"stages.1.lora.rank": 3}, r"^stages\.1\.lora\.rank: the adapter that goes on has 2; write the same\."),
        ({"stages.0.lora.targets": ["q_proj"]}, r"^stages\.1\.lora\.targets: the adapter that goes on has \['q_p"),
        ({"stages.1.reference": "adapter_off"}, r"^stages\.1\.reference: without its adapter .*; write auto or copy\."),
    ],
)
def test_what_is_refused(raw: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    for path, value in changes.items():
        *parents, key = path.split(".")
        place = raw
        for part in parents:
            place = place[int(part)] if part.isdigit() else place[part]  # type: ignore[index]
        place[key] = value
    with pytest.raises(RecipeError, match=message):
        parse_recipe(raw)


def test_a_variant_follows_the_trunk(raw: dict[str, Any]) -> None:
    raw["variants"] = {"odd": [{**copy.deepcopy(raw["stages"][1]), "lora": {"rank": 4, "continues": True}}]}
    with pytest.raises(RecipeError, match=r"^variants\.odd\.0\.lora\.rank: the adapter that goes on has 2"):
        parse_recipe(raw)
