"""Code of the user's own: its errors name its line, what it returns is checked, and a run folder knows it again."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import sys
from collections.abc import Callable
from typing import Any

import pytest

PARTS = """
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from palimpsest import Objective, Scores

POWER = 1.0


@dataclass(frozen=True)
class Loss(Objective):
    unit = "example"

    def __call__(self, view, state=None):
        return {loss}


@dataclass(frozen=True)
class Measure:
    {items}

    def __call__(self, subject, data, role):
        ids = tuple(row["id"] for row in data[role])
        return {measured}


class Net(torch.nn.Linear):
    def forward(self, x):
        return {answer}


def make():
    return Net(64, 10)
"""
GOOD = {
    "loss": "-POWER * view.logp",
    "measured": 'Scores("measure", torch.full((len(ids),), POWER), ids, role=role)',
    "answer": "super().forward(x)",
    "items": '"""Nothing to set."""',
}
NUMBERS = itertools.count()
Write = Callable[..., str]


@pytest.fixture
def own(digits: Any, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes the module of the user's parts, good ones but for what is given, and returns its name."""
    name = f"parts_of_mine_{next(NUMBERS)}"

    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # which is not renewed twice within a second

    def write(text: Callable[[str], str] = str, **parts: str) -> str:
        sys.modules.pop(name, None)
        (digits.folder / f"{name}.py").write_text(text(PARTS.format(**GOOD | parts)))
        return name

    digits.recipe |= {
        "model": {"pretrained": f"{name}:make", "adapter": "classifier", "classes": 10},
        "stages": [
            {"name": "one", "objective": [{"on": "forget", f"{name}:Loss": {}}], "train": {"steps": 2, "batch": 4}}
        ],
        "audits": {"forget": ["accuracy", f"{name}:Measure"]},
        "baselines": [],
    }
    return write


@pytest.mark.parametrize(
    ("parts", "place", "told"),
    [
        ({"loss": '-view.logp * {"a": 1}["b"]'}, "stages.0", "KeyError: 'b'"),
        ({"loss": "view.logitz"}, "stages.0", "AttributeError: 'LabelView' object has no attribute 'logitz'"),
        ({"loss": "-view.logp * torch.ones(7)"}, "stages.0", "RuntimeError: The size of tensor a (4)"),
        ({"loss": "F.nll_loss(view.log_probs, view.labels[:2])"}, "stages.0", "ValueError: Expected input batch_size"),
        ({"loss": "1 / 0"}, "stages.0", "ZeroDivisionError: division by zero"),
        ({"measured": 'data[role][0]["lable"]'}, "audits.forget.{}:Measure", "KeyError: 'lable'"),
        ({"answer": "x @ torch.ones(3)"}, "audits.forget.accuracy", "RuntimeError: size mismatch"),
    ],
)
def test_an_error_in_own_code_names_its_line(
    digits: Any, own: Write, parts: dict[str, str], place: str, told: str
) -> None:
    """With its kind and its message; the traceback lies in the run folder, until the run begins anew."""
    name = own(**parts)
    (line,) = (
        i
        for i, text in enumerate((digits.folder / f"{name}.py").read_text().splitlines(), 1)
        if next(iter(parts.values())) in text
    )
    said = digits.refused("--allow-imports")
    assert said.startswith(f"palimpsest run: {place.format(name)}: {told}"), said
    assert f"{name}.py:{line}); correct that code; its traceback lies in" in said
    kept = (digits.folder / "out" / "traceback.txt").read_text()
    assert kept.startswith("Traceback") and f'{name}.py", line {line}' in kept and told in kept
    own()
    digits.recipe["audits"]["forget"] = ["accuracy", f"{name}:Measure"]
    assert digits.run("--allow-imports")[0] == 0 and not (digits.folder / "out" / "traceback.txt").exists()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"measured": "0.5"}, "audits.forget.{}:Measure: it returned a float; return Scores, with a value and an id"),
        (
            {"measured": 'Scores("x", torch.ones(2), ("a", "b"))'},
            "audits.forget.{}:Measure: it returned the id 'a', which no row of the role forget has; give row_ids(",
        ),
        (
            {"measured": 'Scores("x", torch.ones(2), ids[:2])'},
            "audits.forget.{}:Measure: it returned 2 items for the 4 rows of the role forget; give row_ids(rows, role)",
        ),
        ({"answer": "(super().forward(x), x)"}, "audits.forget.accuracy: The model returned a tuple; it must return a"),
        ({"answer": '{"logits": super().forward(x)}'}, "audits.forget.accuracy: The model returned a dict; it must"),
    ],
)
def test_what_own_parts_return_is_checked(digits: Any, own: Write, parts: dict[str, str], said: str) -> None:
    name = own(**parts)
    assert digits.refused("--allow-imports").startswith(f"palimpsest run: {said.format(name)}")


@pytest.mark.parametrize(
    ("measured", "told"), [("0.5", "it returned a float"), ("data[0]", r"KeyError: 0 \(\S+.py:\d+\)")]
)
def test_what_is_watched_is_checked_alike(digits: Any, own: Write, measured: str, told: str) -> None:
    name = own(measured=measured)
    digits.recipe["stages"][0]["watch"] = {"every": 1, "audits": digits.recipe["audits"]}
    digits.recipe["audits"] = {"forget": ["accuracy"]}
    said = digits.refused("--allow-imports")
    assert re.search(rf"run: stages\.0\.watch\.audits\.forget\.{name}:Measure: {told}", said), said


def test_an_audit_may_have_items_of_its_own(digits: Any, own: Write) -> None:
    own(measured='Scores("x", torch.ones(2), ("a", "b"))', items="own_items: ClassVar[bool] = True")
    assert digits.run("--allow-imports")[0] == 0


def figures(project: Any) -> dict[str, float]:
    report = json.loads((project.folder / "out" / "report.json").read_text())
    return {f"{s['run']} {s['audit'].rpartition(':')[2]}": s["value"] for s in report["scores"]}


CHANGED = {
    "in the class": lambda text: text.replace("-POWER * view.logp", "-2 * view.logp"),
    "in what it uses": lambda text: text.replace("POWER = 1.0", "POWER = 2.0"),
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_loss_that_was_changed_is_another_run(digits: Any, own: Write, change: str) -> None:
    """Whether the run is finished or not; what else stands in the file may change."""
    name = own()
    assert digits.run("--allow-imports")[0] == 0
    own(lambda text: text + "\n\nOTHER = 3\n")
    status, err = digits.run("--allow-imports")
    assert status == 0 and "its report is read back" in err
    for file in ("report.json", "seed-0/after/scores.jsonl"):
        own(CHANGED[change])
        said = digits.refused("--allow-imports")
        assert f"{name}:Loss: its code has changed since the run in" in said
        assert said.endswith("choose another folder with --out, or delete that one.")
        (digits.folder / "out" / file).unlink()
    own()
    assert digits.run("--allow-imports")[0] == 0


def test_a_network_that_was_changed_is_another_run(digits: Any, own: Write) -> None:
    """Also where the factory is the same and the class that it makes is another."""
    name = own()
    assert digits.run("--allow-imports")[0] == 0
    own(answer="2 * super().forward(x)")
    assert f"{name}:make: its code has changed since the run in" in digits.refused("--allow-imports")


def test_names_that_another_file_gives_are_followed(digits: Any, own: Write) -> None:
    """The factory is taken from a module beside it."""
    inner = own()
    outer = f"{inner}_outer"
    (digits.folder / f"{outer}.py").write_text(
        f"from {inner} import POWER, make as made\n\n\ndef make():\n    return made()\n"
    )
    digits.recipe["model"]["pretrained"] = f"{outer}:make"
    assert digits.run("--allow-imports")[0] == 0
    own(answer="2 * super().forward(x)")
    sys.modules.pop(outer)
    assert f"{outer}:make: its code has changed since the run in" in digits.refused("--allow-imports")


def test_an_audit_that_was_changed_is_measured_anew(digits: Any, own: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is trained again; changed back, it is measured once more."""
    own()
    assert digits.run("--allow-imports")[0] == 0
    first = figures(digits)
    assert first["after Measure"] == 1.0
    with monkeypatch.context() as patch:
        patch.setattr("palimpsest.stage.fit", lambda *_, **__: pytest.fail("a stage was trained again"))
        own(measured='Scores("measure", torch.full((len(ids),), 7.0), ids, role=role)')
        assert digits.run("--allow-imports")[0] == 0
        assert figures(digits) == {**first, "before Measure": 7.0, "after Measure": 7.0}
        folders = [str(digits.folder / out) for out in ("out", "copy")]
        shutil.copytree(*folders)
        assert digits.call("compare", *folders, "--out", str(digits.folder / "compared"))[0] == 0
        own()
        assert digits.run("--allow-imports")[0] == 0 and figures(digits) == first
        own()
        assert "its report is read back" in digits.run("--allow-imports")[1]
