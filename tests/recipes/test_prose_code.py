"""The recipes of continued pre-training: their grids, their data, and, made short, that they run."""

from __future__ import annotations

import dataclasses
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from palimpsest.recipe import Recipe, RecipeError
from palimpsest.recipe_source import load_recipe
from palimpsest.role_data import load_roles
from palimpsest.run import run
from palimpsest.shared_rows import refuse_shared_rows

RECIPES = Path(__file__).parents[2] / "recipes"
GERMAN, LEGAL = (runpy.run_path(str(RECIPES / "data" / f"{name}_text.py")) for name in ("german", "legal"))


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(RECIPES / "prose-code.py", allow_imports=True)


def test_the_grid_is_whole(recipe: Recipe) -> None:
    assert len(recipe.variants) == 3 * 3 * 3 + 3 and recipe.stages in recipe.variants.values()
    first = {id_of(stages[0].train) for stages in recipe.variants.values()}
    assert len(first) == 2, "one first phase for those that re-warm, one for those that never decayed"
    second = [stages[1] for stages in recipe.variants.values()]
    assert all(stage.train["epochs"] == 1 and stage.train["batch"] == second[0].train["batch"] for stage in second)
    re_warmed = [recipe.variants[f"{fall} x2, 5%"] for fall in ("cosine", "wsd")]
    assert re_warmed[0][0] == re_warmed[1][0] and re_warmed[0][1].train["lr"] == re_warmed[1][1].train["lr"] == 2e-2
    ends = [next(iter(stages[1].train["schedule"].values())) for stages in re_warmed]
    assert ends[0].items() <= ends[1].items(), "they begin and end alike"
    plateau = recipe.variants["infinite x1, 25%"]
    names = {"cooldown": 0.3, "annealing": 0.0, "plateau": 0.5}
    assert names.items() <= plateau[0].train["schedule"]["infinite"].items()
    assert plateau[0].train["lr"] == plateau[1].train["lr"], "no jump at the join"


def id_of(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def test_all_arms_read_as_much_and_nothing_that_is_measured(recipe: Recipe) -> None:
    rows = load_roles(recipe)[0]
    refuse_shared_rows(recipe, rows)
    streams = {name: own for name, own in rows.items() if name.startswith("stream")}
    assert {len(own) for own in streams.values()} == {768}
    old = {name: sum(row["id"].startswith("docstrings/") for row in own) for name, own in streams.items()}
    assert old == {"stream 0%": 0, "stream 5%": 38, "stream 25%": 192}
    assert len(rows["all"]) == 16 * recipe.stages[0].train["steps"] + 768
    assert sum(row["id"].startswith("code/") for row in rows["all"]) == 768
    assert {len(row["text"]) for own in rows.values() for row in own} == {64}


def shortened(recipe: Recipe, **roles: Any) -> Recipe:
    """A few steps of a few arms on a few rows."""

    def short(stages: list[Any]) -> list[Any]:
        train = {"steps": 3, "batch": 4}
        cut = [
            dataclasses.replace(s, train={**{k: v for k, v in s.train.items() if k != "epochs"}, **train})
            for s in stages
        ]
        return [dataclasses.replace(s, watch=s.watch and dataclasses.replace(s.watch, every=1)) for s in cut]

    some = ("infinite x1, 25%", "constant, 25%")
    (joint,) = recipe.baselines
    train = {**joint["retrain"]["train"], "epochs": 0.1}  # type: ignore[index]
    return dataclasses.replace(
        recipe,
        roles={**recipe.roles, **roles},
        stages=short(recipe.stages),
        variants={name: short(recipe.variants[name]) for name in some},
        baselines=[{"retrain": {**joint["retrain"], "train": train}}],  # type: ignore[index]
        seeds=[0],
    )


def people(first: int, part: str = "all", **more: Any) -> dict[str, Any]:
    return {"zoo": "authors", "part": part, "people": 4, "first": first, **more}


def test_it_runs(recipe: Recipe, tmp_path: Path) -> None:
    roles = {"english": people(0), "test english": people(4), "code": people(8), "test code": people(12)}
    mixes = {k: {**v, "rows": 40} for k, v in recipe.roles.items() if isinstance(v, dict) and "mix" in v}
    report = run(shortened(recipe, **roles, **mixes), tmp_path / "run")
    assert {m.run for m in report.matrices} == {
        "after",
        "infinite x1, 25%",
        "constant, 25%",
    }
    assert all(m.stages == ("before", "pre-train", "continue") for m in report.matrices)
    assert {v.run for v in report.versus} >= {"after", "infinite x1, 25%"}
    first = {p.name for p in (tmp_path / "run" / "seed-0").glob("*/0-pre-train")}
    kept = sorted(p.parent.name for p in (tmp_path / "run" / "seed-0").glob("*/0-pre-train"))
    assert first == {"0-pre-train"} and kept == ["after", "infinite x1, 25%"], "each first phase once"
    at_join = {c.run: c.points[0][1] for c in report.curves if "test english/perplexity (every" in c.name}
    assert at_join["after"] == pytest.approx(at_join["constant, 25%"]) != at_join["infinite x1, 25%"]


def test_german_is_asked_for_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"^There is no german\.jsonl here; python recipes/data/german_text\.py"):
        load_recipe(RECIPES / "english-german.py", allow_imports=True)


def test_without_the_package_it_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert GERMAN["main"]([str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith("install the package: apt-get install debian-reference-de.\n")


PAGE = """<html><head><p>Nicht dieser Kopf, der lang genug wäre, um zu zählen.</p></head><body>
<p>Das Linux-System ist sehr leistungsf&auml;hig, aber nicht <em>einfach</em> zu
erlernen.</p><pre><p>Nicht diese Zeile, die ein Befehl aus einer Liste sein soll.</p></pre><p>Zu kurz.</p>
<p>ls -l /etc/*.conf | grep -v "^#" | sort &gt; /tmp/$(date +%F)_$$.txt; echo $? # 2&gt;&amp;1.</p></body></html>"""


def test_paragraphs_are_prose() -> None:
    found = list(GERMAN["paragraphs"](PAGE))
    assert found == ["Das Linux-System ist sehr leistungsfähig, aber nicht einfach zu erlernen."]


def test_passages_have_one_size_and_whole_letters() -> None:
    found = GERMAN["passages"]("äöü" * 50 + "rest", 7)
    assert {len(passage.encode()) for passage in found} == {6, 7}, "a letter of two bytes is not cut"
    assert "".join(found) in "äöü" * 50 + "rest"


def test_the_german_recipe_runs_on_what_the_script_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    book = tmp_path / "deb" / "usr" / "share" / "debian-reference"
    book.mkdir(parents=True)
    text = "".join(
        f"<p>Absatz {'viele' * (i % 7)} Wörter über das System Nummer {'ein' * (i % 11)} {i}.</p>" for i in range(5000)
    )
    (book / "ch01.de.html").write_text(text, encoding="utf-8")
    assert GERMAN["main"](["deb"]) == 0
    recipe = load_recipe(RECIPES / "english-german.py", allow_imports=True)
    rows = load_roles(dataclasses.replace(recipe, roles={k: v for k, v in recipe.roles.items() if "german" in k}))[0]
    assert {name: len(own) for name, own in rows.items()} == {"german": 768, "test german": 96}
    assert not {row["id"] for row in rows["german"]} & {row["id"] for row in rows["test german"]}
    assert list(recipe.tasks.values()) == ["test english", "test german"] and len(recipe.variants) == 30


def licences(folder: Path) -> None:
    """A folder of three made-up licences, one of which is held out and shares a paragraph with another."""
    folder.mkdir()
    shared = "The licensor grants no right whatsoever to this paragraph, which two licences have in common."
    for name, count in (("Apache-2.0", 120), ("GPL-9", 700), ("GPL", 700)):
        own = [f"{name[:3]} section {i}: you may do {'well ' * (i % 9)}as you like, but no more." for i in range(count)]
        (folder / name).write_text("\n\n".join(["TITLE", shared, *own, "names, names"]), encoding="utf-8")


def test_the_legal_recipe_runs_on_what_the_script_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"^There is no legal\.jsonl here; python recipes/data/legal_text\.py"):
        load_recipe(RECIPES / "english-legal.py", allow_imports=True)
    licences(tmp_path / "licences")
    assert LEGAL["main"](["licences"]) == 0
    recipe = load_recipe(RECIPES / "english-legal.py", allow_imports=True)
    rows = load_roles(dataclasses.replace(recipe, roles={k: v for k, v in recipe.roles.items() if "legal" in k}))[0]
    assert {name: len(own) for name, own in rows.items()} == {"legal": 768, "test legal": 96}
    assert {len(row["text"]) for own in rows.values() for row in own} == {64}
    read = " ".join(row["text"] for row in rows["legal"])
    assert "Apa section" not in read and "in common" not in read and "names, names" not in read
    assert all("GPL section" not in row["text"] for row in rows["test legal"])
    assert list(recipe.tasks.values()) == ["test english", "test legal"] and len(recipe.variants) == 30


def test_without_the_held_out_licence_it_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert LEGAL["main"]([str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith("Apache-2.0; name a folder of licences that has it.\n")
    (tmp_path / "Apache-2.0").write_text("One paragraph, which is long enough to be kept, but it is alone.")
    assert LEGAL["main"]([str(tmp_path)]) == 1
    assert "needed; add licences." in capsys.readouterr().err
