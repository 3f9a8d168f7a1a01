"""The folder of a finished stage is a model to hand on: nothing in it holds the rows that it was trained on."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from palimpsest import Report
from palimpsest.checkpoint import read_tensors, write_tensors
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


def test_tied_weights_are_written_once_and_read_back_from_either_form(project: Any) -> None:
    from transformers import AutoModelForCausalLM

    file = project.folder / MODEL / "model.safetensors"
    assert project.run()[0] == 0
    tensors, _ = read_tensors(file)
    assert "model.embed_tokens.weight" in tensors and "lm_head.weight" not in tensors
    model = AutoModelForCausalLM.from_pretrained(file.parent)
    head = model.get_output_embeddings().weight
    assert torch.equal(head, tensors["model.embed_tokens.weight"]) and head is model.get_input_embeddings().weight
    wanted = scores(project.folder / "out")
    for written in (tensors, {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}):  # now, and before
        write_tensors(file, written)
        (project.folder / "out" / "report.json").unlink()
        (project.folder / MODEL).with_name("scores.jsonl").unlink()
        assert project.run()[0] == 0
        assert scores(project.folder / "out") == wanted
        project.recipe["model"]["pretrained"], given = str(file.parent), project.recipe["model"]["pretrained"]
        assert project.run(out=f"on-{len(written)}")[0] == 0
        project.recipe["model"]["pretrained"] = given
    assert scores(project.folder / f"on-{len(tensors)}") == scores(project.folder / f"on-{len(tensors) + 1}") != wanted


def test_who_may_read_the_model_follows_the_umask(project: Any) -> None:
    before = os.umask(0o027)
    try:
        assert project.run()[0] == 0
    finally:
        os.umask(before)
    files = [file for file in (project.folder / "out").rglob("*") if file.is_file()]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o640}


def scores(out: Path) -> list[tuple[str, str, str, float]]:
    """The figures of a run."""
    return [(s.run, s.role, s.audit, s.value) for s in Report.load(out / "report.json").scores]
