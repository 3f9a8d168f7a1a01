"""The model's folder: where it is looked up, and that its weights are the same in every life of a run."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from palimpsest.loop import Interrupted, Progress
from palimpsest.recipe_source import parse_recipe
from palimpsest.run import Quiet, run


class Halt(Quiet):
    """Ctrl-C after the first step."""

    def progress(self, label: str, progress: Progress) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["full", "lora"])
def test_a_stopped_run_does_not_go_on_with_another_model(project: Any, tiny: Path, lora: Any) -> None:
    folder, out = project.folder / "model", project.folder / "out"
    shutil.copytree(tiny, folder)
    project.recipe["model"]["pretrained"] = str(folder)
    project.recipe["stages"][0] |= {"objective": [{"on": "forget", "npo": {}}]} | ({"lora": lora} if lora else {})
    with pytest.raises(Interrupted):
        run(parse_recipe(project.recipe), out, folder=project.folder, events=Halt())
    assert (out / "seed-0" / "after" / "0-forgetting" / "reference.safetensors").exists()
    taught_otherwise(folder)
    (out / "base.json").unlink()  # as in a run that earlier code began
    said = project.refused()
    assert "stages.0: its model is not the one with which it began, of which" in said
    assert said.endswith("choose another folder with --out, or delete that one.")
    shutil.copytree(tiny, folder, dirs_exist_ok=True)
    (out / "base.json").unlink()
    assert project.run()[0] == 0, "with its own model it goes on"


@pytest.fixture
def own(project: Any, tiny: Path) -> Any:
    """The project with a model beside its recipe, by a relative path."""
    shutil.copytree(tiny, project.folder / "model")
    project.recipe["model"]["pretrained"] = "./model"
    return project


def taught_otherwise(folder: Path) -> None:
    """Other weights, in a file of the same size."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.01)
    model.save_pretrained(folder)


def touched(file: Path) -> None:
    """Another time of change, the same content."""
    about = file.stat()
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns + 10**9))


@pytest.mark.parametrize("ended", ["stopped", "finished"])
def test_weights_that_changed_are_refused(own: Any, tiny: Path, ended: str) -> None:
    file, kept = own.folder / "model" / "model.safetensors", own.folder / "kept.safetensors"
    shutil.copy2(file, kept)
    if ended == "finished":
        assert own.run()[0] == 0
    else:
        with pytest.raises(Interrupted):
            run(parse_recipe(own.recipe), own.folder / "out", folder=own.folder, events=Halt())
    taught_otherwise(own.folder / "model")
    said = own.refused()
    assert f"model.pretrained: model.safetensors in {own.folder / 'model'} has changed since the run in" in said
    assert said.endswith("began; choose another folder with --out, or delete that one.")
    shutil.copy(kept, file)
    assert own.run()[0] == 0, "the same weights, though at another time"
    taught_otherwise(own.folder / "model")
    assert own.run(out="other")[0] == 0, "another run may begin with the new ones"


def test_weights_are_read_again_only_if_their_file_was_touched(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    digest = hashlib.file_digest

    def counted(content: Any, name: str) -> Any:
        read.append(Path(content.name).name)
        return digest(content, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    for _ in range(2):
        assert own.run()[0] == 0
        assert read == ["model.safetensors"]
    touched(own.folder / "model" / "model.safetensors")
    for _ in range(2):
        assert own.run()[0] == 0
        assert len(read) == 2


def test_a_finished_run_is_read_back_though_its_model_is_gone(own: Any) -> None:
    assert own.run()[0] == 0
    shutil.rmtree(own.folder / "model")
    assert own.run()[0] == 0


def test_a_relative_model_lies_beside_the_recipe_and_then_here(
    own: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(here)
    assert own.run()[0] == 0, "beside the recipe, wherever one is"
    os.rename(own.folder / "model", here / "model")
    taught_otherwise(here / "model")
    with pytest.raises(Interrupted):
        run(parse_recipe(own.recipe), own.folder / "second", folder=own.folder, events=Halt())
    monkeypatch.chdir(elsewhere)
    assert own.run(out="second")[0] == 0, "the run knows where it found its model"
    places = f"neither beside the recipe in {own.folder} nor in the working directory {elsewhere}"
    assert f"There is no folder model, {places}" in own.refused(out="third")
    own.recipe["model"]["pretrained"] = "./model.gguf"
    assert f"There is no file model.gguf, {places}" in own.refused(out="third")


def test_a_mix_counts_the_tokens_of_a_model_beside_the_recipe(own: Any) -> None:
    own.recipe["roles"]["stream"] = {"mix": {"forget": 0.5, "retain": 0.5}, "tokens": 40}
    own.recipe["stages"][0]["objective"] = [{"on": "stream", "cross_entropy": {}}]
    own.recipe["audits"] = {"holdout": ["probability"]}
    own.recipe["expect"] = {}
    assert own.run()[0] == 0


def test_a_model_that_is_missing_is_found_before_anything_is_loaded(own: Any) -> None:
    own.recipe["model"]["pretrained"] = "./modle"
    (own.folder / "retain.jsonl").unlink()
    status, said = own.run()
    assert status == 2 and "There is no folder modle" in said and "Loading" not in said
