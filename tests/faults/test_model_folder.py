"""The folder of a finished stage is a model to hand on: nothing in it holds the rows that it was trained on."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palimpsest.loop import Interrupted, Progress
from palimpsest.recipe_source import parse_recipe
from palimpsest.run import Quiet, run

MODEL = Path("out", "seed-0", "after", "0-forgetting")


class Halt(Quiet):
    """Ctrl-C after the first step."""

    def progress(self, label: str, progress: Progress) -> None:
        raise KeyboardInterrupt


@pytest.fixture
def storing(project: Any) -> Any:
    """A stage that stores what the model said of the rows to be forgotten, and the hidden states of others."""
    project.recipe["stages"][0]["objective"] = [
        {"on": "forget", "npo": {}},
        {"on": "retain", "feature_distance": {}},
    ]
    return project


def spelled(project: Any, tiny: Path) -> dict[str, list[bytes]]:
    """Role -> each row's prompt and completion as text, and as tokens in the forms in which files hold them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    found: dict[str, list[bytes]] = {}
    for role in ("forget", "retain"):
        rows = [json.loads(line) for line in (project.folder / f"{role}.jsonl").read_text().splitlines()]
        for text in (row[column] for row in rows for column in ("prompt", "completion")):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            forms = [np.asarray(ids, dtype).tobytes() for dtype in ("<i2", "<i4", "<i8", "<f4")]
            found.setdefault(role, []).extend([text.encode(), *forms])
    return found


def holding(folder: Path, needles: dict[str, list[bytes]]) -> list[tuple[str, str]]:
    """(file, role) of every file below ``folder`` in which a row of a role stands."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [
        (str(file.relative_to(folder)), role)
        for file in files
        for role, own in needles.items()
        if any(needle in file.read_bytes() for needle in own)
    ]


def test_no_file_of_a_finished_model_holds_a_row(storing: Any, tiny: Path) -> None:
    folder, needles = storing.folder / MODEL, spelled(storing, tiny)
    with pytest.raises(Interrupted):
        run(parse_recipe(storing.recipe), storing.folder / "out", folder=storing.folder, events=Halt())
    unfinished = holding(folder, needles)
    assert ("reference.safetensors", "forget") in unfinished, "what is looked for is found where it is"
    assert any(name.endswith("objectives.safetensors") and role == "retain" for name, role in unfinished)
    assert storing.run()[0] == 0
    assert (folder / "model.safetensors").exists() and holding(folder, needles) == []
    assert [name for name, _ in holding(folder.parent, needles)] == ["0-forgetting.states.safetensors"]


def test_a_run_of_earlier_code_is_tidied_when_it_is_read_back(storing: Any, tiny: Path) -> None:
    assert storing.run()[0] == 0
    folder, needles = storing.folder / MODEL, spelled(storing, tiny)
    states = folder.with_name("0-forgetting.states.safetensors")
    for again in ("report", "stages"):
        shutil.copy(states, folder / "reference.safetensors")
        os.replace(states, folder / "states.safetensors")
        if again == "stages":
            (storing.folder / "out" / "report.json").unlink()
        assert storing.run()[0] == 0
        assert holding(folder, needles) == [], again
        assert states.exists() and not (folder / "reference.safetensors").exists(), again
