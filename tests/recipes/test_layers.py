"""A stage with ``layers`` in a recipe: it learns, it resumes, it ends as a plain dense model, it says what is wrong."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from palimpsest.checkpoint import read_tensors
from palimpsest.loaded import load_model
from palimpsest.loop import Interrupted, Progress
from palimpsest.recipe import RecipeError
from palimpsest.recipe_source import parse_recipe
from palimpsest.role_data import load_roles
from palimpsest.roles import Roles
from palimpsest.run import run
from palimpsest.stage import Trained, run_stage

TRAIN = {"steps": 100, "batch": 32, "lr": 3e-3}
DIGITS: dict[str, Any] = {
    "model": {"pretrained": "digits-mlp", "adapter": "classifier"},
    "roles": {"task": {"zoo": "digits", "classes": list(range(10))}},
    "objective": [{"on": "task", "cross_entropy": {}}],
    "train": TRAIN,
    "audits": {"task": ["accuracy"]},
}
LAYERS: dict[str, Any] = {
    "lost": {"layers": {"lost": {"targets": ["0", "2"], "sparsity": 0.1}}, "train": {**TRAIN, "lr": 1e-2}},
    "multi_sample_dropout": {"layers": {"multi_sample_dropout": {"samples": 4}}},
    "spherical_output": {  # without timely repairs this rate ruins the factors within 50 steps
        "layers": {"spherical_output": {"learning_rate": 0.03}},
        "objective": [{"on": "task", "spherical_z": {"shift": 2.0}}],
    },
}


@pytest.fixture
def llama(tmp_path: Path) -> dict[str, Any]:
    """A recipe that trains the tiny llama with LOST in all its attention and MLP layers."""
    from palimpsest.zoo.models import tiny_llama

    for part in tiny_llama(300, layers=1, width=32):
        part.save_pretrained(tmp_path / "tiny")
    return {
        "model": {"pretrained": str(tmp_path / "tiny"), "max_length": 96},
        "roles": {"task": {"zoo": "authors", "people": 4, "facts": 2, "forget": 1, "part": "retain"}},
        "layers": {"lost": {}},
        "objective": [{"on": "task", "cross_entropy": {}}, {"on": "task", "lse_square": {}, "weight": 1e-4}],
        "train": {"steps": 12, "batch": 4, "lr": 1e-2},
        "audits": {"task": ["probability"]},
    }


def is_plain(folder: Path, recipe: dict[str, Any]) -> None:
    """What the stage left is a state of the model as it was loaded, name by name."""
    stored, _ = read_tensors(next(folder.rglob("model.safetensors")))
    model = load_model(parse_recipe(recipe)).model
    expected = model.state_dict()
    own = dict(model.named_parameters())
    tied = dict(model.named_parameters(remove_duplicate=False)).keys() - own.keys()  # written under its first name
    assert {n: v.shape for n, v in stored.items()} == {n: v.shape for n, v in expected.items() if n not in tied}
    assert all(type(m).__module__.startswith(("torch.", "transformers.")) for m in model.modules())
    moved = [n for n in stored if not torch.equal(stored[n], expected[n])]
    assert set(moved) == own.keys()


@pytest.mark.parametrize("name", LAYERS)
def test_digits_are_learned_and_the_model_ends_plain(name: str, tmp_path: Path) -> None:
    recipe = copy.deepcopy(DIGITS) | LAYERS[name]
    report = run(parse_recipe(recipe), tmp_path / "out")
    accuracy = {s.run: s.value for s in report.scores}
    assert accuracy["before"] < 0.3 and accuracy["after"] > 0.8, accuracy
    is_plain(tmp_path / "out" / "seed-0", recipe)


def test_a_llama_is_trained_with_lost_and_ends_plain(llama: dict[str, Any], tmp_path: Path) -> None:
    report = run(parse_recipe(llama), tmp_path / "out")
    score = {s.run: s.value for s in report.scores}
    assert score["after"] > 2 * score["before"]
    is_plain(tmp_path / "out" / "seed-0", llama)


@pytest.mark.parametrize("name", LAYERS)
def test_a_stopped_stage_resumes_to_the_same_weights(name: str, tmp_path: Path) -> None:
    """Dropout masks, the factored layer's own state and the low-rank factors included."""
    raw = copy.deepcopy(DIGITS) | LAYERS[name]
    raw["train"] = {"steps": 8, "batch": 16, "lr": 3e-3, "checkpoint_every": 1}
    recipe = parse_recipe(raw)
    rows, _ = load_roles(recipe)

    def stage(folder: Path, stop: int | None = None) -> nn.Module:
        def watch(progress: Progress) -> None:
            if progress.step == stop:
                raise KeyboardInterrupt

        loaded = load_model(recipe)
        trained, roles = Trained(loaded.model, {}, []), Roles(loaded.adapter, rows)
        run_stage(recipe.stages[0], "stages.0", trained, roles, seed=0, folder=folder, on_step=watch)
        return loaded.model

    whole = stage(tmp_path / "whole").state_dict()
    with pytest.raises(Interrupted):
        stage(tmp_path / "stopped", stop=3)
    resumed = stage(tmp_path / "stopped").state_dict()
    assert all(torch.equal(v, whole[k]) for k, v in resumed.items())
    again = stage(tmp_path / "stopped").state_dict()  # read back, not trained again
    assert all(torch.equal(v, whole[k]) for k, v in again.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": {"lost": {}}}, r"no linear layer with 'attn' or 'mlp' in its path; there are: 0, 2, 4\."),
        ({"layers": {"multi_sample_dropout": {"head": "fc"}}}, r"no module 'fc'; there are: 0, 1, 2, 3, 4\."),
        ({"layers": {"lots": {}}}, r"no layer 'lots'; did you mean 'lost'\?"),
        ({"layers": {"lost": {"rank": 0}}}, r"layers\.lost: rank must be at least 1"),
        ({"layers": {"lost": {}}, "lora": {"rank": 2}}, r"layers: they would replace parts of what lora adds; remove"),
        ({"layers": "spherical_output"}, r"train it with spherical_z, or leave spherical_output away\."),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        run(parse_recipe(copy.deepcopy(DIGITS) | change), tmp_path / "out")
    assert "\n" not in str(error.value)
