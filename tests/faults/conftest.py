"""A small project on disk, and the command line run in it, with what it said."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from palimpsest import cli
from palimpsest.yaml_text import dump

ROWS = {
    "forget": [
        {"id": f"f{i}", "prompt": f"Who is {n}?", "completion": f" {n} mends clocks."} for i, n in enumerate("AB")
    ],
    "retain": [
        {"id": f"r{i}", "prompt": f"Who is {n}?", "completion": f" {n} bakes bread."} for i, n in enumerate("CDE")
    ],
    "holdout": [
        {"id": f"h{i}", "prompt": f"Who is {n}?", "completion": f" {n} keeps bees."} for i, n in enumerate("FG")
    ],
    "digits": [{"id": f"d{i}", "inputs": [i / 8] * 64, "label": i % 10} for i in range(12)],
    "kept": [{"id": f"k{i}", "inputs": [1 - i / 8] * 64, "label": i % 10} for i in range(8)],
}


@dataclass
class Project:
    """``recipe`` is written to recipe.yaml by ``run``; its data lie beside it."""

    folder: Path
    recipe: dict[str, Any]
    said: Callable[[], tuple[str, str]]

    def write(self, name: str, rows: Sequence[object]) -> Path:
        """A JSON-lines file in the folder."""
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    def run(self, *flags: str, verb: str = "run", out: str = "out") -> tuple[int, str]:
        """(exit status, standard error) of the recipe as it is now."""
        (self.folder / "recipe.yaml").write_text(dump(self.recipe), encoding="utf-8")
        return self.call(verb, str(self.folder / "recipe.yaml"), "--out", str(self.folder / out), *flags)

    def call(self, *arguments: str) -> tuple[int, str]:
        """(exit status, standard error) of any command line."""
        self.said()
        status = cli.main(arguments)
        return status, self.said()[1]

    def refused(self, *flags: str, verb: str = "run", out: str = "out", status: int = 2) -> str:
        """The one sentence of a run that must end with ``status``."""
        return sentence(*self.run(*flags, verb=verb, out=out), status)


def sentence(status: int, err: str, expected: int = 2) -> str:
    """The one line of ``err`` that is no progress; asserts what every failure has in common."""
    lines = [x for x in err.splitlines() if x.strip() and not x.startswith(("[", "    ", "Loading"))]
    assert status == expected, err
    assert len(lines) == 1, err
    assert "Traceback" not in err and lines[0].isprintable() and len(lines[0]) < 700
    assert lines[0].endswith((".", "?")), lines[0]
    return lines[0]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo's tiny-llama, saved once: by its name, every run would make its tokenizer again."""
    from palimpsest.zoo.models import tiny_llama

    folder = tmp_path_factory.mktemp("tiny-llama")
    for part in tiny_llama():
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def project(tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> Project:
    """Unlearning two rows with a random tiny Llama, in three steps."""
    recipe = {
        "name": "small",
        "model": {"pretrained": str(tiny), "max_length": 64},
        "roles": {"forget": "forget.jsonl", "retain": "retain.jsonl", "holdout": "holdout.jsonl"},
        "stages": [
            {
                "name": "forgetting",
                "objective": [
                    {"on": "forget", "gradient_ascent": {}, "weight": 0.5},
                    {"on": "retain", "cross_entropy": {}},
                ],
                "train": {"steps": 3, "batch": 2, "lr": 1e-3},
            }
        ],
        "audits": {"forget": ["probability"], "holdout": ["probability"]},
        "baselines": ["do_nothing"],
        "expect": {"forget/probability": "lower"},
    }

    def said() -> tuple[str, str]:
        found = capsys.readouterr()
        return found.out, found.err

    made = Project(tmp_path, recipe, said)
    for name, rows in ROWS.items():
        made.write(f"{name}.jsonl", rows)
    return made


@pytest.fixture
def digits(project: Project) -> Project:
    """The same with a classifier of digits."""
    project.recipe |= {
        "model": {"pretrained": "digits-mlp", "adapter": "classifier"},
        "roles": {"forget": {"file": "digits.jsonl", "rows": 4}, "retain": "kept.jsonl"},
        "audits": {"forget": ["accuracy", "probability"]},
        "expect": {},
    }
    return project
