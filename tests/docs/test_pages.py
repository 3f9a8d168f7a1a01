"""What the scripts of docs/ write on single pages: of a method, a paper, a study, and the curves in them."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from palimpsest.card import MethodCard, method_cards, parse_card
from palimpsest.claim import PaperEntry, load_paper
from palimpsest.recipe import Recipe, Stage
from palimpsest.recipe_parts import compile_objective
from palimpsest.yaml_text import parse

METHOD_SOURCE = '''"""Shrinks the loss of a*b and c*d.

    L = a * b < c

Paper: A title (Someone, 2020), eq. 2.
Tags: loss, toy
Needs: ref
Differs: nothing known.
See: ``npo`` (its card), ``cut_cross_entropy``, ``toy_shrink`` and ``nowhere``.
"""

from __future__ import annotations

from dataclasses import dataclass

from palimpsest.objective import Objective

__all__ = ["Shrink", "shrink"]


def shrink(
    values: list[float], floor: float = 0.0, *, places: tuple[str, ...] = ("left", "right"), strict: bool = True
) -> list[float]:
    """Values of shape [B, T-1] above `floor`.

        shrink([1, 2])

    No value is dropped.
    """
    return [max(v, floor) for v in values]


@dataclass(frozen=True)
class Shrink(Objective):
    """Calls ``shrink`` on <each> item."""

    count: int
    beta: float | None = 0.1
    """How hard it shrinks, above 0."""
    name: str = "left|right"


METHOD = Shrink
'''


def test_the_line_of_each_page_stands_in_a_recipe(scripts: dict[str, ModuleType]) -> None:
    """It is taken as it is written, at a key that there is."""
    for entry in method_cards():
        method = importlib.import_module(f"palimpsest.{entry.family}.{entry.name}").METHOD
        line = scripts["method_pages"].in_a_recipe(entry.family, entry.name, method)
        if entry.family in ("procedures", "laws"):
            assert line in ("", entry.name)
            continue
        found = parse(line)
        (key,) = found
        spec = found[key]
        while entry.name not in spec and spec != entry.name:  # what stands around the name
            (spec,) = [spec[-1]] if isinstance(spec, list) else spec.values()
        known = {f.name for f in dataclasses.fields(Recipe)} | {f.name for f in dataclasses.fields(Stage)}
        assert key in known, line
        if key == "objective":
            (term,) = compile_objective(Stage(objective=found[key]), "stages.0").terms
            assert isinstance(term.objective, method) and len(term.role) == (2 if "another" in line else 1), line


def test_a_claim_without_evidence_is_called_not_measured(scripts: dict[str, ModuleType]) -> None:
    from palimpsest.claim import Claim

    untested = type("Untested", (Claim,), {"says": "It works."})
    page = scripts["paper_pages"].paper_page(PaperEntry("npo", load_paper("npo").paper, (), (untested,)), None, set())
    assert "**State**: claimed. Its parts are here, and" in page
    assert "### Untested\n\nIt works.\n\n**Verdict**: not measured yet" in page


def test_a_claim_says_how_it_is_tested_measured_or_not(scripts: dict[str, ModuleType]) -> None:
    from palimpsest.claim import Claim

    tested = type("Tested", (Claim,), {"says": "It works.", "__doc__": "Two of *three*.\n\n    Shown when both do.\n"})
    entry = PaperEntry("npo", load_paper("npo").paper, (), (tested,))
    about = "### {}\n\nIt works.\n\n**Experiment**: Two of \\*three\\*.\n\nShown when both do.\n\n**Verdict**: {}"
    page = scripts["paper_pages"].paper_page
    assert about.format("Tested", "not measured yet") in page(entry, None, set())
    evidence = {"verdict": "partly", "because": "One does.", "figures": []}
    claims = [{"claim": f"Tested{budget}", "says": "It works.", "evidence": evidence} for budget in ("", " (gpu)")]
    measured = page(entry, {"claims": claims}, set())
    assert about.format("Tested", "partly. One does.") in measured
    assert about.format("Tested (gpu)", "partly. One does.") in measured


def test_a_planned_paper_says_so_and_leads_on(scripts: dict[str, ModuleType]) -> None:
    page = scripts["paper_pages"].paper_page(PaperEntry("npo", load_paper("npo").paper, (), ()), None, set())
    assert "**State**: planned. No part of it is here yet; [these papers](index.md#state=claimed) and" in page


def test_a_study_of_one_seed_says_what_its_intervals_lack(scripts: dict[str, ModuleType]) -> None:
    pages = scripts["study_pages"]
    report = pages.load_studies(pages.STUDIES)["split-digits"]
    assert "one seed" not in pages.study_page(report)
    assert "There is one seed: " in pages.study_page(dataclasses.replace(report, seeds=(0,)))


def test_unreadable_evidence_names_its_file(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    (tmp_path / "npo.json").write_text('{"claims": [{"claim": "A"}]}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"npo\.json is not evidence .*palimpsest verify npo"):
        scripts["paper_pages"].load_results(tmp_path, ["npo", "flat"])


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MethodCard:
    """A method file outside the package, registered as one of its modules."""
    file = tmp_path / "toy_shrink.py"
    file.write_text(METHOD_SOURCE, encoding="utf-8")
    name = "palimpsest.objectives.toy_shrink"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    package = sys.modules.get("palimpsest.objectives", ModuleType("palimpsest.objectives"))
    monkeypatch.setitem(sys.modules, "palimpsest.objectives", package)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return MethodCard("objectives", "toy_shrink", parse_card(module.__doc__ or ""))


def test_a_method_page_shows_card_fields_and_functions(scripts: dict[str, ModuleType], toy: MethodCard) -> None:
    page = scripts["method_pages"].method_page(toy, {"npo": "A paper"})
    assert page.path == "methods/objectives/toy_shrink.md"
    text = page.text
    assert "Shrinks the loss of a\\*b and c\\*d." in text
    assert "```text\nL = a * b < c\n```" in text
    assert "**Differs**: nothing known." in text and "**Code**" not in text
    assert "**Tags**: [loss](../index.md#tag=loss), [toy](../index.md#tag=toy)" in text
    assert "**Needs**: [ref](../../glossary.md#nouns)" in text
    links = "[``npo``](../objectives/npo.md) (its card), [``cut_cross_entropy``](../kernels/cut_cross_entropy.md)"
    assert f"**See**: {links}, ``toy_shrink`` and ``nowhere``." in text, "only what has a page is a link"
    assert "Part of [A paper](../../papers/npo.md)." in text
    assert "Calls ``shrink`` on &lt;each&gt; item." in text
    assert "In a recipe: `objective: [{on: role, toy_shrink: {}}]`." in text
    assert "In Python: `from palimpsest.objectives.toy_shrink import Shrink`." in text
    assert "| `count` | `int` | required |  |" in text
    assert "| `beta` | `float \\| None` | `0.1` | How hard it shrinks, above 0. |" in text
    assert "| `name` | `str` | `'left\\|right'` |  |" in text
    assert "Values of shape \\[B, T-1\\] above `floor`." in text
    assert "    shrink([1, 2])" in text
    expected = (
        "shrink(\n    values: list[float],\n    floor: float = 0.0,\n    *,\n"
        "    places: tuple[str, ...] = ('left', 'right'),\n    strict: bool = True,\n) -> list[float]"
    )
    assert f"```python\n{expected}\n```" in text
    assert text.index("## Shrink") < text.index("## shrink")


def test_a_curve_is_drawn_where_the_schedule_is_and_broken_where_it_jumps(scripts: dict[str, ModuleType]) -> None:
    def points(text: str) -> list[list[tuple[float, float]]]:
        found = re.findall(r'<polyline points="([^"]*)"', text)
        return [[(float(x), float(y)) for x, y in (p.split(",") for p in run.split())] for run in found]

    curves = scripts["curves"]
    (line,) = points(curves.curve(lambda p: 1 - p, "a < b"))
    assert line[0][0] < line[-1][0] and line[0][1] < line[-1][1]  # from the top left to the bottom right
    assert "<title>a &lt; b</title>" in curves.curve(lambda p: 1 - p, "a < b")
    first, second = points(curves.curve(lambda p: float(p >= 0.5), "a step"))
    assert first[-1][0] < second[0][0] and {y for _, y in first} != {y for _, y in second}


def test_measured_lines_have_their_names_and_dashes_of_their_own(scripts: dict[str, ModuleType]) -> None:
    picture = scripts["curves"].measured({"a & b": [(0, 1.0), (8, 0.5)], "flat": [(0, 0.5), (8, 0.5)]}, "known")
    lines = re.findall(r'<polyline points="([^"]*)" stroke-dasharray="([^"]*)"/>', picture)
    assert len({dash for _, dash in lines}) == 2
    heights = [[float(p.split(",")[1]) for p in points.split()] for points, _ in lines]
    assert sorted(high < low for high, low in heights) == [False, True], "one falls, one stays"
    assert "a &amp; b</text>" in picture and not re.search(r"nan|inf\b", picture)


def test_a_study_shows_what_was_watched_and_differences_to_the_retrained(scripts: dict[str, ModuleType]) -> None:
    from palimpsest.report import Curve, Report, Run, Score, Versus

    runs = (Run("before", "before"), Run("after", "after", "naive"), Run("retrained", "baseline", "joint"))
    scores = [Score(r.name, "old", "perplexity", 2.0, 1.9, 2.1, 96, better="lower", unit="nats/token") for r in runs]
    versus = Versus("after", "old", "perplexity", "retrained", "difference", 0.0312, 0.0201, 0.0423, 0.01)
    watched = Curve("after", "old/perplexity (every 8 steps)", ((0.0, 2.0), (8.0, 2.5)))
    report = Report("A study", "2026-11-24", runs=runs, scores=tuple(scores), versus=(versus,), curves=(watched,))
    page = scripts["study_pages"].study_page(report)
    cells = "2.00<br><small>1.90 to 2.10</small> | 0.031<br><small>0.020 to 0.042</small>"
    assert "old perplexity<br><small>minus retrained</small>" in page and f"| naive | {cells} |" in page
    assert page.count("<figure>") == 1 and "old/perplexity (every 8 steps), in nats/token, mean over the seeds" in page
    assert "lower is better, 96 items, nats/token" in page
    assert "- [perplexity](../methods/audits/perplexity.md): How surprised the model is by text, in nats per" in page
    many = tuple(Curve("after", f"{i}/loss (every step)", ((0.0, 1.0),)) for i in range(7))
    assert "<figure>" not in scripts["study_pages"].study_page(Report("A study", "2026-11-24", runs=runs, curves=many))


def test_a_site_without_methods_says_so(scripts: dict[str, ModuleType]) -> None:
    assert "No method file is installed." in scripts["method_pages"].methods_index(())


def test_text_of_docstrings_is_never_markup(scripts: dict[str, ModuleType]) -> None:
    text = scripts["markdown_text"]
    assert text.prose("<b> & *x* [y](z) `a*b` ``c`d``") == "&lt;b&gt; &amp; \\*x\\* \\[y\\](z) `a*b` ``c`d``"
    assert text.code("a ``` b") == "````text\na ``` b\n````"
    assert (text.span("a|b"), text.span("a`b"), text.span("")) == ("`a|b`", "`` a`b ``", "")
    assert text.table(["x"], [["`a|b`\n c"]]) == "| x |\n| --- |\n| `a\\|b` c |"
