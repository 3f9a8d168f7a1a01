"""A stream of tasks whose process is killed at eleven points ends with the same weights and the same stage matrix."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from palimpsest.checkpoint import read_tensors
from palimpsest.report import Report

SCRIPT = Path(__file__).with_name("stream_lives.py")
TASKS = ("one", "two", "three")
VIEWS = {"augment": {"shift": 1, "noise": 0.1}}


def stage(name: str, *terms: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Cross-entropy on a task and further terms, in six steps with a checkpoint after every second."""
    train = {"steps": 6, "batch": 16, "lr": 0.02, "optimizer": "sgd", "checkpoint_every": 2}
    audits = {f"test {t}": ["accuracy"] for t in TASKS}
    own = {"on": name, "cross_entropy": {}}
    return {"name": name, "objective": [own, *terms], "train": train, "watch": {"every": 3, "audits": audits}, **more}


def remembering(name: str, before: str) -> dict[str, Any]:
    """A stage that stands on what the one before left: Fishers, and logits of a buffer."""
    ewc = {"on": "weights", "elastic_weight_consolidation": {"of": before, "rows": 20}, "weight": 10.0}
    dark = {"on": f"until {before}", "dark_experience": {}}
    return stage(name, ewc, dark, select={f"until {before}": {"reservoir": {"size": 30}}})


def rounds(name: str) -> dict[str, Any]:
    """A stage with two rounds of its own."""
    loop = {"k_fpf": {"rounds": 2, "steps": 2, "size": 30, "replay": f"until {name}"}}
    made = stage(name, {"on": f"until {name}", "cross_entropy": {}}, procedure=loop)
    return {key: value for key, value in made.items() if key != "watch"}


def prototypes(name: str) -> dict[str, Any]:
    """A stage that learns prototypes beside the model, before which it is copied."""
    on = [f"first view of {name}", f"second view of {name}"]
    terms = [{"on": on, "supervised_contrastive": {"width": 8}}, {"on": on, "prototype_relation": {"head": "head"}}]
    return {**stage(name), "objective": terms, "reference": "copy"}


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ``stream_lives.py``, every life of which ended as it should."""
    folder = tmp_path_factory.mktemp("stream")
    roles: dict[str, Any] = {}
    for i, name in enumerate(TASKS):
        classes = [2 * i, 2 * i + 1]
        roles |= {name: {"zoo": "digits", "classes": classes}, f"until {name}": list(TASKS[: i + 1])}
        roles[f"test {name}"] = {"zoo": "digits", "part": "test", "classes": classes}
        roles |= {f"first view of {name}": {**VIEWS, "of": name}, f"second view of {name}": {**VIEWS, "of": name}}
    recipe = {
        "model": {"pretrained": "digits-cnn", "adapter": "classifier"},
        "roles": roles,
        "stages": [stage("one"), remembering("two", "one"), remembering("three", "two")],
        "tasks": {name: f"test {name}" for name in TASKS},
        "variants": {"k-FPF": [rounds(t) for t in TASKS], "PRD": [prototypes(t) for t in TASKS]},
        "audits": {f"test {t}": ["accuracy"] for t in TASKS},
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, SCRIPT, folder], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    ends = json.loads((folder / "ends.json").read_text())
    assert ends.pop("whole") == ends.pop("killed") == 0, done.stderr[-4000:]
    assert set(ends.values()) == {-signal.SIGKILL}, ends
    return folder


def test_every_stage_left_the_same_weights_and_states(lives: Path) -> None:
    names = sorted(str(file.relative_to(lives / "whole")) for file in (lives / "whole").rglob("*.safetensors"))
    assert names == sorted(str(f.relative_to(lives / "killed")) for f in (lives / "killed").rglob("*.safetensors"))
    assert sum(name.endswith("model.safetensors") for name in names) == 3 * len(TASKS)
    assert sum(name.endswith("states.safetensors") for name in names) == 2 + len(TASKS)
    for name in names:
        first, second = (read_tensors(lives / run / name)[0] for run in ("whole", "killed"))
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[key]) for key, value in first.items()), name


def test_the_matrices_their_figures_and_the_curves_are_the_same(lives: Path) -> None:
    whole, killed = (Report.load(lives / run / "report.json") for run in ("whole", "killed"))
    assert [m.run for m in whole.matrices] == ["after", "k-FPF", "PRD"]
    assert len({m.values for m in whole.matrices}) == 3
    assert repr(killed.matrices) == repr(whole.matrices)  # nan is not equal to itself
    assert killed.curves == whole.curves and whole.curves
    assert repr(killed.scores) == repr(whole.scores)
    assert [(r.name, r.steps, r.tokens) for r in killed.runs] == [(r.name, r.steps, r.tokens) for r in whole.runs]


def test_every_item_that_was_measured_is_the_same_and_nothing_is_left_behind(lives: Path) -> None:
    files = sorted((lives / "whole").rglob("scores.jsonl"))
    assert len(files) == 1 + 3 * len(TASKS)
    for file in files:
        assert file.read_bytes() == (lives / "killed" / file.relative_to(lives / "whole")).read_bytes(), file
    assert not [p for p in (lives / "killed").rglob("*") if p.name.startswith((".", "step-"))]
