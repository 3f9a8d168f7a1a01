"""The TOFU recipe on made-up rows, a tiny model and two steps a stage: every method and every audit."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from palimpsest import cli

ROOT = Path(__file__).parents[2]
STEPS = 2
FILES = {
    "forget10_perturbed.json": 4,
    "retain90.json": 8,
    "retain_perturbed.json": 4,
    "real_authors_perturbed.json": 4,
    "world_facts_perturbed.json": 4,
}


def rows(name: str, count: int) -> str:
    """One JSON object a line, with the columns of TOFU's files."""
    found = []
    for i in range(count):
        row: dict[str, object] = {"question": f"Where does {name[:5]} {i} live?", "answer": f"In house {i}."}
        if "perturbed" in name:
            row |= {"paraphrased_answer": f"House {i}.", "perturbed_answer": [f"House {i + k}." for k in (1, 2, 3)]}
        found.append(json.dumps(row))
    return "\n".join(found) + "\n"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The report of the recipe beside made-up data."""
    folder = tmp_path_factory.mktemp("tofu")
    data = folder / "data" / "tofu"
    data.mkdir(parents=True)
    for name, count in FILES.items():
        (data / name).write_text(rows(name, count))
    (data / "idontknow.jsonl").write_text("I do not know.\nThat is beyond me.\n")
    (folder / "tofu.yaml").write_text((ROOT / "recipes" / "tofu.yaml").read_text())
    flags = ["model.pretrained=tiny-llama", "variants.ULD.0.starts.truncated_copy.layers=1"]
    places = ["stages.0", "stages.1", "variants.LoKU", "variants.ULD.0"]
    places += ["variants.task vector.0", "variants.Who's Harry Potter.0"]
    places += [f"variants.{name}" for name in ("GA + retain", "FLAT", "SalUn mask + NPO")]
    places += [f"variants.refusal by {name}" for name in ("preference", "fine-tuning")]
    for place in places:
        flags += [f"{place}.train.epochs=null", f"{place}.train.steps={STEPS}", f"{place}.train.batch=4"]
    flags += [f"audits.{role}.0={{rouge: {{max_new_tokens: 4}}}}" for role in ("forget", "known")]
    flags += ["audits.known.3.model_utility.max_new_tokens=4"]
    command = ["run", str(folder / "tofu.yaml"), "--out", str(folder / "out")]
    assert cli.main([*command, *(part for flag in flags for part in ("--set", flag))]) == 0
    found: dict = json.loads((folder / "out" / "report.json").read_text())
    return found


def test_every_method_is_trained_and_every_audit_asked(report: dict) -> None:
    runs = {run["name"]: run for run in report["runs"]}
    methods = {"GA + retain", "FLAT", "LoKU", "SalUn mask + NPO", "refusal by preference", "refusal by fine-tuning"}
    methods |= {"task vector", "Who's Harry Potter"}
    assert runs.keys() == methods | {"before", "after", "ULD", "gradient_ascent", "retrained"}
    assert all(run["steps"] == STEPS for run in runs.values())
    audits = {("forget", a) for a in ("rouge", "probability", "truth_ratio", "extraction_strength")}
    audits |= {("known", a) for a in ("rouge", "probability", "truth_ratio", "model_utility")}
    measured = {(s["run"], s["role"], s["audit"]): s for s in report["scores"]}
    assert measured.keys() == {(run, *audit) for run in runs for audit in audits}
    assert all(math.isfinite(s["value"]) for s in measured.values())
    assert len(report["verdicts"]) == 4


def test_every_method_moved_the_model(report: dict) -> None:
    """ULD and Who's Harry Potter leave the weights alone and move what is said."""
    values = {s["run"]: s["value"] for s in report["scores"] if (s["role"], s["audit"]) == ("forget", "probability")}
    assert len(set(values.values())) == len(values)
