"""A companion that is a copy of the model, trained further in one stage, and what the next stage makes of it."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.checkpoint import read_tensors
from palimpsest.recipe import RecipeError, Stage
from palimpsest.recipe_source import parse_recipe
from palimpsest.report import Report
from palimpsest.roles import Roles
from palimpsest.run import run
from palimpsest.stage import Trained, run_stage
from palimpsest.zoo.models import tiny_llama

AUTHORS = {"zoo": "authors", "people": 4, "facts": 2, "forget": 1}
REINFORCE: dict[str, Any] = {
    "name": "reinforce",
    "trains": "reinforced",
    "starts": "full_copy",
    "objective": [{"on": "forget", "cross_entropy": {}}],
    "train": {"steps": 4, "batch": 2, "lr": 3e-3},
}
VECTOR: dict[str, Any] = {"name": "subtract", "edit": {"task_vector": {"alpha": 1.0}}}
POTTER: dict[str, Any] = {"name": "lower", "intervention": {"whos_harry_potter": {"alpha": 4.0}}}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The zoo's tiny-llama, saved once."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    for part in tiny_llama():
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def raw(tiny: str) -> dict[str, Any]:
    """A model that is taught everything and then made to forget, by both methods as variants."""
    teach = {"objective": [{"on": "all", "cross_entropy": {}}], "train": {"steps": 6, "batch": 4, "lr": 3e-3}}
    npo = {"objective": [{"on": "forget", "npo": {}}], "train": {"steps": 2, "batch": 2, "lr": 1e-3}}
    return copy.deepcopy(
        {
            "name": "small",
            "model": {"pretrained": tiny, "max_length": 64},
            "roles": {
                "forget": {**AUTHORS, "part": "forget"},
                "retain": {**AUTHORS, "part": "retain"},
                "all": ["forget", "retain"],
            },
            "stages": [{"name": "teach", **teach}, {"name": "NPO", **npo}],
            "variants": {"task vector": [REINFORCE, VECTOR], "Harry Potter": [REINFORCE, POTTER]},
            "audits": {"forget": ["probability"], "retain": ["probability"]},
        }
    )


def scores(report: Report) -> dict[str, float]:
    return {s.run: s.value for s in report.scores if s.role == "forget"}


def weights(home: Path, stage: str) -> Mapping[str, Tensor]:
    return read_tensors(home / stage / "model.safetensors")[0]


def test_both_methods_take_away_what_the_companion_learned(raw: dict[str, Any], tmp_path: Path) -> None:
    """The companion is trained once for the two, since they begin with the same stage."""
    report = run(parse_recipe(raw), tmp_path / "out")
    home = tmp_path / "out" / "seed-0"
    assert sorted(p.name for p in (home / "task vector").iterdir()) == ["0-reinforce", "1-subtract", "scores.jsonl"]
    assert [p.name for p in (home / "Harry Potter").iterdir()] == ["scores.jsonl"]
    runs = {r.name: r for r in report.runs}
    for name in raw["variants"]:
        (companion,) = runs[name].companions
        assert companion["name"] == "reinforced" and runs[name].steps == 4
    target, reinforced, after = (
        weights(home, s) for s in ("before/0-teach", "task vector/0-reinforce", "task vector/1-subtract")
    )
    assert max(float((reinforced[n] - target[n]).abs().max()) for n in reinforced) > 1e-3
    for name, own in reinforced.items():
        torch.testing.assert_close(after[name], 2 * target[name] - own, atol=1e-6, rtol=0)
    found = scores(report)
    assert max(found["task vector"], found["Harry Potter"]) < 0.9 * found["before"]
    for left in ("report.json", "report.html", "seed-0/Harry Potter/scores.jsonl", "seed-0/task vector/scores.jsonl"):
        (tmp_path / "out" / left).unlink()
    shutil.rmtree(home / "task vector" / "1-subtract")  # the companion is read from the disk, and subtracted again
    assert scores(run(parse_recipe(raw), tmp_path / "out")) == found


def test_a_stage_that_edits_may_train_too(raw: dict[str, Any], tmp_path: Path) -> None:
    """It starts from the edited weights; a companion under an adapter is whole again when its stage ends."""
    retain = {"objective": [{"on": "retain", "cross_entropy": {}}], "train": {"steps": 1, "batch": 2, "lr": 1e-7}}
    lora = {**REINFORCE, "lora": {"rank": 2, "alpha": 16}, "train": {**REINFORCE["train"], "lr": 3e-2}}
    raw["variants"] = {"repaired": [lora, {**VECTOR, **retain}]}
    run(parse_recipe(raw), tmp_path / "out")
    home = tmp_path / "out" / "seed-0"
    target, reinforced, after = (
        weights(home, s) for s in ("before/0-teach", "repaired/0-reinforce", "repaired/1-subtract")
    )
    name = "model.layers.0.self_attn.q_proj.weight"
    assert float((reinforced[name] - target[name]).abs().max()) > 1e-2
    torch.testing.assert_close(after[name], 2 * target[name] - reinforced[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([VECTOR], r"variants\.v\.0\.edit: no earlier stage trains a companion 'reinforced'; add one, with trains"),
        ([VECTOR, REINFORCE], r"variants\.v\.0\.edit: no earlier stage trains a companion 'reinforced'; add one"),
        ([{**REINFORCE, **VECTOR}], r"variants\.v\.0\.edit: no earlier stage trains a companion"),
        ([POTTER], r"variants\.v\.0\.intervention: no earlier stage trains a companion 'reinforced'; add one"),
        ([{**REINFORCE, "trains": "reenforced"}, POTTER], r"v\.1\.intervention: .* did you mean reenforced\?"),
    ],
)
def test_a_companion_that_nobody_trains_is_missed_at_once(
    raw: dict[str, Any], stages: list[dict[str, Any]], words: str
) -> None:
    raw["variants"] = {"v": stages}
    with pytest.raises(RecipeError, match=words):
        parse_recipe(raw)


def test_a_companion_of_the_trunk_serves_variants(raw: dict[str, Any]) -> None:
    raw["stages"] = [raw["stages"][0], REINFORCE, VECTOR]
    raw["variants"] = {"stronger": {**VECTOR, "edit": {"task_vector": {"alpha": 2.0}}}, "said": POTTER}
    assert parse_recipe(raw).variants["said"][0].intervention == POTTER["intervention"]


def test_a_companion_is_read_back_with_what_it_averaged(tmp_path: Path) -> None:
    """Batch statistics are buffers: they move while a companion is trained, and no gradient moves them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    rows = [{"inputs": torch.randn(4) + 3, "label": i % 2} for i in range(8)]
    stage = Stage("twin", [{"on": "task", "cross_entropy": {}}], {"steps": 3, "batch": 4, "lr": 1e-2})
    stage = Stage(stage.name, stage.objective, stage.train, trains="twin", starts="full_copy")
    found = []
    for _ in range(2):
        trained, roles = Trained(copy.deepcopy(model), {}, []), Roles(Classifier(2, features="1"), {"task": rows})
        run_stage(stage, "stages.0", trained, roles, seed=0, folder=tmp_path / "twin")
        found.append(trained.companions["twin"].state_dict())
    assert float(found[0]["1.running_mean"].abs().max()) > 0.1
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
