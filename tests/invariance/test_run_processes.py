"""``torchrun -m palimpsest.cli run`` on two processes: the same report, every item measured once, written once.

The two processes run it in two goes, first with other audits, one baseline and no variant.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palimpsest import cli
from palimpsest.yaml_text import dump
from palimpsest.zoo.models import tiny_llama

PEOPLE = {"zoo": "authors", "people": 4, "facts": 2, "forget": 1}
TRAIN = {"steps": 4, "batch": 4, "lr": 1e-2}
RECIPE: dict[str, Any] = {
    "name": "shared",
    "roles": {
        "forget": {**PEOPLE, "part": "forget"},
        "retain": {**PEOPLE, "part": "retain"},
        "authors": ["forget", "retain"],
    },
    "stages": [
        {"name": "teach", "objective": [{"on": "authors", "cross_entropy": {}}], "train": TRAIN},
        {
            "name": "forget",
            "mask": {"salun": {"fraction": 0.5}},
            "objective": [{"on": "forget", "npo": {}}, {"on": "retain", "cross_entropy": {}}],
            "train": {**TRAIN, "checkpoint_every": 2},
            "watch": {"every": 2, "audits": {"retain": ["probability"]}},
        },
    ],
    "variants": {
        "LoKU": {
            "lora": {"rank": 2},
            "edit": "fila",
            "objective": [{"on": "forget", "inverted_hinge": {}}, {"on": "retain", "kl_to_reference": {}}],
            "train": TRAIN,
        },
    },
    "audits": {
        "forget": ["probability", {"rouge": {"max_new_tokens": 6}}, "truth_ratio", {"counted:Counted": {}}],
        "retain": ["probability", "extraction_strength"],
    },
    "baselines": ["do_nothing", "retrain"],
    "expect": {"forget/probability": "nearer retrained"},
}
COUNTED = '''
import os
from dataclasses import dataclass
from pathlib import Path

from palimpsest.audits.probability import Probability


@dataclass(frozen=True)
class Counted:
    """The probability audit, which leaves the ids of the rows that each process asked its model about."""

    def __call__(self, subject, data, role):
        inner = getattr(subject, "subject", subject)
        ask = inner.logp

        def noted(rows):
            with Path(os.environ["ASKED"]).joinpath(os.environ.get("RANK", "alone")).open("a") as file:
                file.write("".join(f"{row['id']}\\n" for row in rows))
            return ask(rows)

        inner.logp = noted
        return Probability()(subject, data, role)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe's folder, with the run of one process in ``one`` and that of two in ``two``."""
    home = tmp_path_factory.mktemp("shared")
    for part in tiny_llama(width=32):
        part.save_pretrained(home / "model")
    (home / "counted.py").write_text(COUNTED)
    recipe = {**RECIPE, "model": {"pretrained": str(home / "model"), "max_length": 128}}
    (home / "recipe.yaml").write_text(dump(recipe))
    for name in ("one", "two"):
        (home / f"asked-{name}").mkdir()
    flags = ["run", str(home / "recipe.yaml"), "--allow-imports", "--out"]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(home))
        patch.setenv("ASKED", str(home / "asked-one"))
        assert cli.main([*flags, str(home / "one")]) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {
        **os.environ,
        "ASKED": str(home / "asked-two"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(home), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    few = {"forget": ["probability", {"rouge": {"max_new_tokens": 3}}]}
    first = {**recipe, "audits": few, "expect": {}, "variants": {}, "baselines": ["do_nothing"]}
    for wanted in (first, recipe):
        (home / "recipe.yaml").write_text(dump(wanted))
        done = subprocess.run(
            [*launch, "-m", "palimpsest.cli", *flags, str(home / "two")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-4000:]
    (home / "said.txt").write_text(done.stderr)
    (home / "printed.txt").write_text(done.stdout)
    return home


def report_of(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name / "report.json").read_text())
    return found


@pytest.mark.parametrize("part", ["scores", "changes", "versus", "curves", "items", "recipe", "seeds", "warnings"])
def test_the_reports_agree(folder: Path, part: str, alike: Callable[..., None]) -> None:
    one, two = report_of(folder, "one"), report_of(folder, "two")
    assert one[part] or part == "warnings"
    alike(one[part], two[part], part)


def test_the_report_says_on_how_many_processes(folder: Path) -> None:
    assert "processes" not in report_of(folder, "one")["environment"]
    assert report_of(folder, "two")["environment"]["processes"] == 2
    (verdict,) = report_of(folder, "two")["verdicts"]
    assert verdict["verdict"] == report_of(folder, "one")["verdicts"][0]["verdict"]


def test_every_item_is_measured_once(folder: Path) -> None:
    """The ids that the two processes asked about are, together, those that one process asks about alone."""
    alone = (folder / "asked-one" / "alone").read_text().split()
    first, second = ((folder / "asked-two" / rank).read_text().split() for rank in "01")
    assert sorted(first + second) == sorted(alone) and abs(len(first) - len(second)) <= len(alone) / 2
    assert first and second


def test_the_first_process_speaks_and_writes(folder: Path) -> None:
    said, printed = (folder / "said.txt").read_text(), (folder / "printed.txt").read_text()
    parts = [line.split()[0] for line in said.splitlines() if line.startswith("[") and "/" in line.split()[0]]
    assert parts == [f"[{i}/{len(parts)}]" for i in range(1, len(parts) + 1)], said
    assert printed.count("Report: ") == 1
    files = {p.relative_to(folder / "two") for p in (folder / "two").rglob("*") if p.is_file()}
    assert files == {p.relative_to(folder / "one") for p in (folder / "one").rglob("*") if p.is_file()}
