"""Pages of studies: what stands beside the figures of every run."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest

from palimpsest.recipe_source import load_recipe, parse_recipe
from palimpsest.report import Matrix, Report, Run, Score, StageFigure, Versus
from palimpsest.yaml_text import parse

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import study_pages  # noqa: E402
from study_pages import load_peers, load_studies, recipe_file, study_page  # noqa: E402


def score(run: str, *per_seed: float) -> Score:
    mean = sum(per_seed) / len(per_seed)
    return Score(run, "notes", "recall", mean, mean - 0.1, mean + 0.1, 8, per_seed=per_seed)


def test_doses_have_a_slope_and_an_effect_size() -> None:
    doses = {"a": "short: dose 0", "c": "short: dose 1", "b": "short: dose 0.5"}
    labels = {"before": "before", **doses, "healed": "short: dose 1, then control text"}
    scores = (score("before", 0.5, 0.5), score("a", 0.9, 0.8), score("b", 0.6, 0.7), score("c", 0.4, 0.5))
    runs = tuple(Run(name, "variant", label) for name, label in labels.items())
    page = study_page(Report("Doses", "2026-01-01", runs=runs, scores=(*scores, score("healed", 0.9, 0.9))))
    (line,) = [x for x in page.splitlines() if x.startswith("| short | notes / recall")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:5] == ["0.850", "0.650", "0.450"]
    assert cells[5].startswith("-0.400<br>")  # -0.5 and -0.3
    assert cells[6].startswith("3.232<br>")  # 0.4 / 0.0707 times 4 / 7
    once = study_page(
        Report("Doses", "2026-01-01", runs=runs, scores=(score("a", 0.9), score("b", 0.6), score("c", 0.4)))
    )
    (line,) = [x for x in once.splitlines() if x.startswith("| short | notes / recall")]
    assert line.rstrip(" |").endswith("–")


def test_a_study_without_doses_or_a_peer_has_neither() -> None:
    page = study_page(Report("Plain", "2026-01-01", runs=(Run("a", "after"),), scores=(score("a", 0.9),)))
    assert "Dose and response" not in page and "Beside" not in page and "minus that of" not in page


def test_variants_stand_beside_their_paired_differences_to_the_run_after() -> None:
    runs = (Run("after", "after", "naive"), Run("mixed", "variant"), Run("retrained", "baseline"))
    to_after = Versus("mixed", "notes", "recall", "after", "difference", 0.1, 0.02, 0.18, 0.01)
    to_joint = Versus("mixed", "notes", "recall", "retrained", "difference", -0.3, -0.4, -0.2, 0.01)
    gap, less = StageFigure("gap_depth", 0.2, 0.1, 0.3), StageFigure("gap_depth", -0.059, -0.11, -0.01)
    naive = Matrix("recall", ("before", "next"), ("notes",), ((0.9,), (0.7,)), figures=(gap,))
    mixed = Matrix("recall", naive.stages, naive.roles, naive.values, run="mixed", figures=(gap,), differences=(less,))
    scores = tuple(score(run.name, 0.5, 0.7) for run in runs)
    report = Report("Arms", "2026-01-01", runs=runs, scores=scores, versus=(to_joint, to_after))
    page = re.sub("<[^>]*>", " ", study_page(dataclasses.replace(report, matrices=(naive, mixed))))
    of_scores, of_stages = page.split("The same minus that of naive, paired by item and seed:")[1:]
    assert "| mixed | 0.10  0.02 to 0.18  |" in of_scores and "| naive |" not in of_scores.split("## ")[0]
    assert "| mixed | 0.60  0.50 to 0.70  | -0.30  -0.40 to -0.20  |" in page, "beside the difference to the retrained"
    assert "| mixed | -0.059  -0.110 to -0.010  |" in of_stages and "0.10" not in of_stages.partition("stage by")[0]


def test_the_figures_of_a_peer_stand_on_the_page_of_its_study(tmp_path: Path) -> None:
    sides = {kind: {"accuracy": [v, v - 0.1, v + 0.1]} for kind, v in {"palimpsest": 0.9, "avalanche": 0.8}.items()}
    sides["difference"] = {"accuracy": [0.1, -0.02, 0.22]}
    peer = {"study": "plain", "methods": {"replay": sides}, "about": {"seeds": 5, "avalanche-lib": "0.6.0"}}
    (tmp_path / "peer.json").write_text(json.dumps(peer))
    (tmp_path / "other.json").write_text("[]")
    found = load_peers(tmp_path)
    page = study_page(Report("Plain", "2026-01-01"), found["plain"])
    plain = re.sub("<[^>]*>", " ", page)
    assert "| replay | accuracy | 0.900  0.800 to 1.000  | 0.800  0.700 to 0.900  | 0.100  -0.020 to 0.220  |" in plain


@pytest.mark.parametrize(
    ("commit", "kept", "says"),
    [
        ("abc", "abc", ""),
        ("abc-dirty", "abc-dirty", "The run was made with changes that no commit holds; commit them and run it again."),
        ("abc, def", "abc, def", "The run went on with other code than it began with."),
        (None, "unknown (kept at now)", "The run does not say which commit it was made with."),
    ],
)
def test_a_kept_study_names_the_commit_of_the_run_and_not_of_keeping(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    commit: str,
    kept: str,
    says: str,
) -> None:
    monkeypatch.setattr(study_pages, "commit_of", lambda _: "now")
    monkeypatch.setattr(study_pages, "STUDIES", tmp_path / "studies")
    environment = {"python": "3"} | ({} if commit is None else {"commit": commit})
    (tmp_path / "plain").mkdir()
    Report("Plain", "2026-01-01", environment=environment).save(tmp_path / "plain" / "report.json")
    report = Report.load(study_pages.keep(tmp_path / "plain" / "report.json"))
    assert report.environment == {"python": "3", "commit": kept}
    assert capsys.readouterr().err.strip() == says
    ends = [x for x in study_page(report).split("\n\n") if x.strip()][-2:]
    assert ends[-1].strip().startswith(says or "Measured on") and f"commit {kept}" in " ".join(ends)


def test_what_is_kept_belongs_to_a_study() -> None:
    kept = load_peers(ROOT / "results" / "bench")
    assert kept and all((ROOT / "results" / "studies" / f"{name}.json").exists() for name in kept)


KEPT = load_studies(ROOT / "results" / "studies")


@pytest.mark.parametrize("name", KEPT)
def test_the_command_on_the_page_of_a_study_runs_the_recipe_that_was_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept studies were run without a GPU; text that does not come along need only be there."""
    for text in ("german", "legal"):
        for file in (f"{text}.jsonl", f"{text}-test.jsonl"):
            (tmp_path / file).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    page = study_page(KEPT[name], file=recipe_file(name))
    command = re.search(r"## How it was run\n\n```sh\npalimpsest run (recipes/\S+)( --allow-imports)?\n```\n", page)
    assert command is not None
    found = load_recipe(ROOT / command[1], allow_imports=command[2] is not None)
    assert found == parse_recipe(parse(KEPT[name].recipe)), f"measure again: {command[0]}"
    assert found.name == name, "its report would be kept under another name"


def test_a_study_says_what_its_recipe_says_of_itself_and_which_files_it_reads(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# Asks a question of *some* data.\n#   Twice.\nname: a\n# no more\n")
    (tmp_path / "b.py").write_text('"""Asks another one.\n\n    palimpsest run b.py\n"""\n')
    roles = "roles:\n  one: one.jsonl\n  two: {file: two.csv, rows: 3}\n  own: {zoo: digits}\n  both: [one, two]\n"
    report = Report("Plain", "2026-01-01", recipe=f"{roles}  no: {{answers: no.json, to: one}}\n")
    page = study_page(report, file=tmp_path / "a.yaml")
    assert "# Plain\n\nAsks a question of \\*some\\* data.\n  Twice.\n\n" in page and "no more" not in page
    assert "It reads data that do not come along: `one.jsonl`, `two.csv`, `no.json`." in page
    assert "# Plain\n\nAsks another one.\n\n    palimpsest run b.py\n\n" in study_page(report, file=tmp_path / "b.py")


def test_a_study_of_no_recipe_here_names_no_command() -> None:
    assert recipe_file("nowhere") is None
    page = study_page(Report("Plain", "2026-01-01", recipe="name: plain"))
    assert "palimpsest run" not in page and "do not come along" not in page and "name: plain" in page
