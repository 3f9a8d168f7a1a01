"""Whatever a recipe does, two processes give the report of one, or refuse it with a sentence that says what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palimpsest.recipe_source import parse_recipe
from palimpsest.run import run
from palimpsest.yaml_text import dump
from palimpsest.zoo.models import tiny_llama

Spec = dict[str, Any]
WORKER = Path(__file__).with_name("recipes_worker.py")
PEOPLE = {"zoo": "authors", "people": 4, "facts": 2, "forget": 1}
TRAIN: Spec = {"steps": 4, "batch": 4, "lr": 1e-2}
TRAINER: Spec = {**TRAIN, "loop": "trainer"}
ADAPTER: Spec = {**TRAIN, "lr": 4e-2}
FORGET, RETAIN = {"on": "forget", "npo": {}}, {"on": "retain", "cross_entropy": {}}
HELD = {"on": "retain", "kl_to_reference": {}}


def budgets(rewind: bool) -> Spec:
    """Two budgets in eight steps; a run that rewinds branches off at the third."""
    schedule = {"wsd_s": {"budgets": [4, 8], "warmup": 0.0, "decay": 0.25}}
    return {
        "procedure": {"several_budgets": {"rewind": rewind}},
        "train": {**TRAIN, "steps": 8, "schedule": schedule},
    }


def follows(name: str, ends: str, continues: bool, loop: str, chosen: Spec) -> Spec:
    """I-LoRA: an adapter beside its slow average, on chosen rows."""
    return {
        "name": name,
        "lora": {"rank": 2, "continues": continues},
        "reference": {"slow_average": {"decay": 0.5, "ends": ends}},
        "objective": [{"on": "forget", "cross_entropy": {}}, {"on": "retain", "embedding_consistency": {}}],
        "train": {**TRAIN, "loop": loop},
        "select": {"retain": chosen},
    }


TEXT: Spec = {
    "name": "text",
    "roles": {
        "forget": {**PEOPLE, "part": "forget"},
        "retain": {**PEOPLE, "part": "retain"},
        "styled": {"rewrite": {"answer_styles": {"own": "brief", "others": ["short"], "share": 0.5}}, "of": "retain"},
        "stream": {"mix": {"forget": 0.5, "retain": 0.5}, "rows": 12},
        "refusal": {"answers": ["I do not know.", "No."], "to": "forget"},
    },
    "stages": [
        {
            "name": "teach",
            "objective": [{"on": "stream", "cross_entropy": {}}, {"on": "styled", "cross_entropy": {}}],
            "train": {**TRAINER, "accumulation": 2, "checkpoint_every": 2},
        },
        {
            "name": "SalUn by the Trainer",
            "mask": {"salun": {"fraction": 0.5}},
            "reference": "copy",
            "objective": [FORGET, HELD],
            "train": TRAINER,
        },
    ],
    "variants": {
        "LoKU by the Trainer": {
            "lora": {"rank": 2},
            "edit": "fila",
            "objective": [{"on": "forget", "inverted_hinge": {}}, HELD],
            "train": {**ADAPTER, "loop": "trainer"},
        },
        "adapter off": {
            "lora": {"rank": 2},
            "reference": "adapter_off",
            "objective": [{"on": ["forget", "refusal"], "preference": {}}, RETAIN],
            "train": ADAPTER,
        },
        "slow average": [
            follows("first", "fast", False, "trainer", {"reservoir": {"size": 4}}),
            follows("second", "slow", True, "plain", {"quality_subset": {"words": 30, "minimum": 1}}),
        ],
        "ULD": [
            {
                "name": "assistant",
                "trains": "assistant",
                "starts": {"truncated_copy": {"layers": 1, "rank": 2, "dropout": 0.0}},
                "objective": [{"on": "forget", "cross_entropy": {}}, {"on": "retain", "uniform": {}, "weight": 5.0}],
                "train": {**TRAIN, "lr": 0.1},
            },
            {"name": "subtract", "intervention": {"logit_difference": {"alpha": 1.0}}},
        ],
        "task vector": [
            {
                "name": "reinforce",
                "trains": "reinforced",
                "starts": "full_copy",
                "objective": [{"on": "forget", "cross_entropy": {}}],
                "train": {**TRAIN, "lr": 1e-2},
            },
            {"name": "subtract", "edit": {"task_vector": {"alpha": 1.0}}},
        ],
        "projection": {
            "combine": {"one_sided_projection": {"protect": "retain"}},
            "objective": [{"on": "forget", "gradient_ascent": {}}, RETAIN],
            "train": {**TRAIN, "accumulation": 2, "lr": 1e-3},
        },
        "budgets": {"objective": [RETAIN], **budgets(rewind=True)},
    },
    "audits": {
        "forget": ["probability", {"relearning": {"audit": "probability", "steps": 2}}],
        "retain": ["probability"],
    },
}
DIGITS: Spec = {
    "name": "digits",
    "model": {"pretrained": "digits-mlp", "adapter": "classifier"},
    "roles": {
        "one": {"zoo": "digits", "classes": [0, 1]},
        "two": {"zoo": "digits", "classes": [2, 3]},
        "replay": ["one", "two"],
        "test one": {"zoo": "digits", "part": "test", "classes": [0, 1]},
        "test two": {"zoo": "digits", "part": "test", "classes": [2, 3]},
    },
}
SGD: Spec = {"steps": 6, "batch": 16, "lr": 0.1, "optimizer": "sgd"}
TWO, REPLAY = {"on": "two", "cross_entropy": {}}, {"on": "replay", "cross_entropy": {}}
BUFFER = {"replay": {"reservoir": {"size": 20}}}
TAUGHT: Spec = {"name": "first", "objective": [{"on": "one", "cross_entropy": {}}], "train": SGD}
TASKS: Spec = {
    **DIGITS,
    "name": "tasks",
    "stages": [
        TAUGHT,
        {
            "name": "second",
            "procedure": {"k_fpf": {"rounds": 2, "steps": 2, "size": 20, "moves": {"modules": ["last"]}}},
            "objective": [TWO, REPLAY],
            "train": SGD,
        },
    ],
    "variants": {
        "k-FPF on the most sensitive": {
            "name": "second",
            "procedure": {"k_fpf": {"rounds": 2, "steps": 2, "moves": {"top": 2, "on": "replay", "steps": 2}}},
            "objective": [TWO, {"on": "replay", "dark_experience": {}}],
            "train": SGD,
        },
        "EWC and LwF": {
            "name": "second",
            "objective": [
                TWO,
                {"on": "weights", "elastic_weight_consolidation": {"of": "one", "rows": 20}, "weight": 10.0},
                {"on": "two", "learning_without_forgetting": {"classes": [0, 1]}},
            ],
            "train": {**SGD, "loop": "trainer"},
        },
        "budgets": {"name": "second", "objective": [TWO], **budgets(rewind=False)},
        "watched": {
            "name": "second",
            "layers": {"lost": {"rank": 8, "targets": ["0", "2"]}},
            "select": BUFFER,
            "objective": [TWO, REPLAY],
            "train": {**SGD, "optimizer": {"frugal": {"modules": ["0", "2"]}}, "lr": 1e-2},
            "watch": {"every": 3, "audits": {"test one": ["accuracy"], "test two": ["probability"]}},
        },
    },
    "tasks": {"first": "test one", "second": "test two"},
    "audits": {"test one": ["accuracy", "probability"], "test two": ["accuracy", "probability"]},
}
EQUAL = {"text": TEXT, "tasks": TASKS}


def refused(**stage: Any) -> Spec:
    """A recipe whose only stage is this one."""
    own = {"objective": [TWO], "train": SGD, **stage}
    return {**DIGITS, "stages": [{"name": "second", **own}], "audits": {"test two": ["accuracy"]}}


REFUSED: dict[str, tuple[Spec, str]] = {
    "batch-statistics": (
        {**refused(), "model": {"pretrained": "digits-cnn", "adapter": "classifier"}},
        "stages.0: The module 'norm1' (BatchNorm2d) normalizes over the rows of a batch, and with several processes no"
        " one holds them all; convert it with torch.nn.SyncBatchNorm.convert_sync_batchnorm, or train on one process.",
    ),
    "compared-rows": (
        refused(objective=[{"on": "two", "multi_similarity": {}}]),
        "stages.0: two/multi_similarity compares the rows of a batch with each other, and with several processes no "
        "one holds them all; train on one process.",
    ),
    "odd-batch": (
        refused(train={**SGD, "batch": 5}),
        "stages.0: A batch of 5 rows cannot be split evenly over 2 processes x 1 accumulation steps; "
        "choose a multiple of 2.",
    ),
    "own-steps": (
        refused(layers={"spherical_output": {}}, objective=[{"on": "two", "spherical_z": {}}]),
        "stages.0: The factored output layer steps on one process's gradient only; train on one process.",
    ),
    "projection-by-the-trainer": (
        refused(
            objective=[TWO, REPLAY],
            combine={"one_sided_projection": {"protect": "replay"}},
            train={**SGD, "loop": "trainer"},
        ),
        "stages.0: OneSidedProjection needs the gradient of each group of terms apart, which DDP and FSDP do not give; "
        "train on one process, or combine with Sum().",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipes, and what one process made of those of ``EQUAL`` in ``one``, two of all in ``two``."""
    home = tmp_path_factory.mktemp("processes")
    for part in tiny_llama(width=32):
        part.save_pretrained(home / "model")
    TEXT["model"] = {"pretrained": str(home / "model"), "max_length": 128}
    for name, raw in {**EQUAL, **{name: raw for name, (raw, _) in REFUSED.items()}}.items():
        (home / f"{name}.yaml").write_text(dump({**raw, "name": name}))
    (home / "two").mkdir()
    done = subprocess.run(
        [sys.executable, WORKER, home],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for name, raw in EQUAL.items():
        run(parse_recipe({**raw, "name": name}), home / "one" / name)
    return home


def report(folder: Path, processes: str, name: str) -> Spec:
    found: Spec = json.loads((folder / processes / name / "report.json").read_text())
    return found


@pytest.mark.parametrize("part", ["scores", "changes", "curves", "matrices", "items", "warnings"])
@pytest.mark.parametrize("name", EQUAL)
def test_the_reports_agree(folder: Path, name: str, part: str, alike: Callable[..., None]) -> None:
    alike(report(folder, "one", name)[part], report(folder, "two", name)[part], part, 1e-5)


@pytest.mark.parametrize("name", EQUAL)
def test_every_run_moved_the_model(folder: Path, name: str) -> None:
    """By far more than the reports may differ."""
    moved: dict[str, float] = {}
    for change in report(folder, "two", name)["changes"]:
        moved[change["run"]] = max(moved.get(change["run"], 0.0), abs(change["change"]))
    assert set(EQUAL[name]["variants"]) < set(moved) and min(moved.values()) > 5e-4, moved


@pytest.mark.parametrize("name", EQUAL)
def test_the_folders_hold_the_same_files(folder: Path, name: str) -> None:
    """Written once, and no checkpoint of either loop is left but those from which more budgets can go on."""
    one, two = ({p.relative_to(folder / n / name) for p in (folder / n / name).rglob("*")} for n in ("one", "two"))
    assert one == two
    passing = [p for p in two if p.name.startswith(("step-", "checkpoint-", ".")) or "leg-" in p.name]
    assert {p.parent.name for p in passing} == {"main-branch"}
    assert name != "text" or {"budget-00000004.safetensors", "budget-00000008.safetensors"} <= {p.name for p in two}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_shared_is_refused(folder: Path, name: str) -> None:
    assert [(folder / "two" / f"{name}-{rank}.txt").read_text() for rank in (0, 1)] == [REFUSED[name][1]] * 2
