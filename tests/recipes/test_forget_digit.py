"""The recipe that makes a classifier forget one class: what it promises, by margins, and the data it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from palimpsest import zoo
from palimpsest.recipe_source import load_recipe
from palimpsest.report import Report
from palimpsest.run import run

RECIPE = Path(__file__).parents[2] / "recipes" / "forget-digit.yaml"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return run(load_recipe(RECIPE), tmp_path_factory.mktemp("digit") / "run")


@pytest.fixture(scope="module")
def accuracy(report: Report) -> Mapping[tuple[str, str], float]:
    """(run, role) -> accuracy."""
    return {(s.run, s.role): s.value for s in report.scores if s.audit == "accuracy"}


def test_every_expectation_is_met(report: Report) -> None:
    assert {f"{v.role}/{v.audit}": v.verdict for v in report.verdicts} == {
        "forget/accuracy": "forgotten",
        "test_forget/accuracy": "forgotten",
        "retain/accuracy": "retained",
        "test_retain/accuracy": "retained",
    }


def test_the_class_was_known_and_is_forgotten(accuracy: Mapping[tuple[str, str], float]) -> None:
    assert accuracy["before", "forget"] > 0.95 and accuracy["before", "test_forget"] > 0.85
    assert accuracy["after", "forget"] < 0.05 and accuracy["after", "test_forget"] < 0.1
    assert accuracy["retrained", "forget"] == accuracy["retrained", "test_forget"] == 0  # it never saw the class


def test_the_other_classes_are_kept(accuracy: Mapping[tuple[str, str], float]) -> None:
    """Within five points of the model before; plain ascent on the class destroys them, a method that did so fails."""
    for role in ("retain", "test_retain"):
        assert accuracy["before", role] > 0.93
        assert accuracy["after", role] > accuracy["before", role] - 0.05
        assert accuracy["gradient_ascent", role] < accuracy["after", role] - 0.3
        assert accuracy["retrained", role] > accuracy["before", role] - 0.03
        assert accuracy["do_nothing", role] == accuracy["before", role]


def test_a_retrained_model_has_the_same_epochs_not_the_same_steps(report: Report) -> None:
    runs = {r.name: r for r in report.runs}
    assert runs["after"].steps == 150 and runs["retrained"].steps == 303  # 15 rounds of 1291 rows by 64
    assert runs["before"].steps == 337


def test_digits_by_class_are_disjoint_and_complete() -> None:
    three, others, every = (zoo.load({"zoo": "digits", **o}) for o in ({"classes": [3]}, {"without": [3]}, {}))
    assert {r["label"] for r in three} == {3} and {r["label"] for r in others} == set(range(10)) - {3}
    assert sorted(r["id"] for r in three + others) == [r["id"] for r in every]
    test = zoo.load({"zoo": "digits", "part": "test", "classes": [3, 5]})
    assert {r["label"] for r in test} == {3, 5} and not {r["id"] for r in test} & {r["id"] for r in every}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"classes": 3}, r"roles.x: digits.classes is a list of whole numbers, such as \[3\], not 3\."),
        ({"classes": []}, r"digits.classes is a list of whole numbers"),
        ({"without": [True]}, r"digits.without is a list of whole numbers"),
        ({"classes": ["3"]}, r"digits.classes is a list of whole numbers"),
        ({"classes": [10]}, r"roles.x: digits: a class is a digit from 0 to 9, not 10\."),
        ({"classes": [3], "without": [3]}, r"no class is left; name fewer under without, or others under classes\."),
    ],
)
def test_wrong_classes_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        zoo.load({"zoo": "digits", **options}, place="roles.x")
