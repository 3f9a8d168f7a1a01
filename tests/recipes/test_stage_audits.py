"""Many tasks and audits: each is measured once after each stage, and of what was measured only files are kept."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from palimpsest.audit import Scores, Trainable
from palimpsest.audits.accuracy import Accuracy
from palimpsest.audits.probability import Probability
from palimpsest.recipe_source import parse_recipe
from palimpsest.run import run
from palimpsest.run_folder import read_scores

TASKS = 4
TRAIN = {"steps": 1, "batch": 8, "lr": 1e-3}


def stream() -> dict[str, Any]:
    """A recipe of so many tasks, with a variant that replays."""
    tasks = range(1, TASKS + 1)
    roles: dict[str, Any] = {}
    for t in tasks:
        roles |= {f"task {t}": {"zoo": "digits", "classes": [t]}, f"seen {t}": [f"task {s}" for s in range(1, t + 1)]}
        roles[f"test {t}"] = {"zoo": "digits", "part": "test", "classes": [t]}

    def stage(t: int, replay: bool) -> dict[str, Any]:
        terms = [{"on": role, "cross_entropy": {}} for role in (f"task {t}", *([f"seen {t}"] if replay else []))]
        return {"name": f"task {t}", "objective": terms, "train": TRAIN}

    return {
        "model": {"pretrained": "digits-mlp", "adapter": "classifier"},
        "roles": roles,
        "stages": [stage(t, False) for t in tasks],
        "tasks": {f"task {t}": f"test {t}" for t in tasks},
        "variants": {"replay": [stage(t, True) for t in tasks]},
        "audits": {f"test {t}": ["accuracy", "probability"] for t in tasks},
    }


@dataclass
class Watched:
    """``asked`` (role, audit) in order, and at each how many results were in memory; ``encoded`` rows."""

    asked: list[tuple[str, str]] = field(default_factory=list)
    alive: list[int] = field(default_factory=list)
    encoded: Counter[int] = field(default_factory=Counter)
    folder: Path = Path()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """One run, looked at from inside."""
    from palimpsest.adapters.classifier import Classifier

    found = Watched(folder=tmp_path_factory.mktemp("stages") / "out")
    made: list[weakref.ref[Scores]] = []
    checked, encode = Scores.__post_init__, Classifier.encode

    def remember(scores: Scores) -> None:
        checked(scores)
        made.append(weakref.ref(scores))

    def counted(self: Classifier, row: Mapping[str, Any], place: str = "row") -> Any:
        found.encoded[id(row)] += place.startswith(("task", "seen"))
        return encode(self, row, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scores, "__post_init__", remember)
        patch.setattr(Classifier, "encode", counted)
        for kind in (Accuracy, Probability):
            measure = kind.__call__

            def asked(
                self: Any,
                subject: Any,
                data: Mapping[str, Sequence[Any]],
                role: str,
                kind: type = kind,
                measure: Any = measure,
            ) -> Scores:
                if isinstance(subject, Trainable):  # not in the rehearsal, which has no model
                    found.asked.append((role, kind.__name__))
                    found.alive.append(sum(r() is not None for r in made))
                scores: Scores = measure(self, subject, data, role)
                return scores

            patch.setattr(kind, "__call__", asked)
        run(parse_recipe(stream()), found.folder)
    return found


def test_each_audit_runs_once_after_each_stage(watched: Watched) -> None:
    """Before any stage, and after each stage of both runs, and no more for the matrix or the report."""
    a_round = [(f"test {t}", name) for t in range(1, TASKS + 1) for name in ("Accuracy", "Probability")]
    assert watched.asked == a_round * (1 + 2 * TASKS)


def test_after_any_stage_no_more_results_are_held_than_after_the_first(watched: Watched) -> None:
    """Those of whole models, which the report compares, and the last one; those between stages are on the disk."""
    size = 2 * TASKS
    rounds = [watched.alive[i : i + size] for i in range(0, len(watched.alive), size)]
    before, after = rounds[1 : 1 + TASKS], rounds[1 + TASKS :]
    assert all(held == [size] + [size + 1] * (size - 1) for held in before), before
    assert all(held == [2 * size] + [2 * size + 1] * (size - 1) for held in after), after
    files = sorted(watched.folder.glob("seed-0/*/*/scores.jsonl"))
    assert len(files) == 2 * (TASKS - 1) and all(len(read_scores(file)) == size for file in files)
    assert all(len(read_scores(file, "accuracy")) == TASKS for file in files)


def test_a_row_is_encoded_once_in_however_many_roles_it_stands(watched: Watched) -> None:
    assert set(watched.encoded.values()) - {0} == {1}
