"""A model's folder whose weights changed while a run was stopped: its reference would be another model's."""

from __future__ import annotations

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
    from transformers import AutoModelForCausalLM

    folder, out = project.folder / "model", project.folder / "out"
    shutil.copytree(tiny, folder)
    project.recipe["model"]["pretrained"] = str(folder)
    project.recipe["stages"][0] |= {"objective": [{"on": "forget", "npo": {}}]} | ({"lora": lora} if lora else {})
    with pytest.raises(Interrupted):
        run(parse_recipe(project.recipe), out, folder=project.folder, events=Halt())
    assert (out / "seed-0" / "after" / "0-forgetting" / "reference.safetensors").exists()
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.01)
    model.save_pretrained(folder)
    said = project.refused()
    assert "stages.0: its model is not the one with which it began, of which" in said
    assert said.endswith("choose another folder with --out, or delete that one.")
    shutil.copytree(tiny, folder, dirs_exist_ok=True)
    assert project.run()[0] == 0, "with its own model it goes on"
