"""The site is built from the files, is complete, and loads nothing from elsewhere."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

from palimpsest.card import MethodCard, method_cards, parse_card
from palimpsest.claim import PaperEntry, load_paper, paper_slugs
from palimpsest.names import families
from palimpsest.recipe import Recipe, Stage
from palimpsest.recipe_parts import compile_objective
from palimpsest.yaml_text import parse

DOCS = Path(__file__).parents[2] / "docs"

EVIDENCE = {
    "paper": "npo",
    "claims": [
        {
            "claim": "SlowerCollapse",
            "says": "At equal forgetting it keeps more <utility>.",
            "evidence": {
                "verdict": "partly",
                "because": "One interval touches zero.",
                "figures": [
                    {"name": "utility | gap", "value": 0.123456, "low": -0.01, "high": 0.25, "unit": "nats"},
                    {"name": "seeds", "value": 3, "low": None, "high": None, "unit": ""},
                ],
                "settings": {"steps": 40, "beta": 0.1},
            },
        }
    ],
    "hardware": {"processor": "two cores"},
    "commit": "abc123",
    "seeds": [0, 1, 2],
    "processor_seconds": 211.4,
}

METHOD_SOURCE = '''"""Shrinks the loss of a*b and c*d.

    L = a * b < c

Paper: A title (Someone, 2020), eq. 2.
Tags: loss, toy
Needs: ref
Differs: nothing known.
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


class Links(HTMLParser):
    """What a page loads and where it points."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.ids.add(given.get("id", ""))
        if "src" in given:
            self.loaded.append(given["src"])
        if tag == "link":
            self.loaded.append(given.get("href", ""))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])


def read(page: Path) -> Links:
    links = Links()
    links.feed(page.read_text(encoding="utf-8"))
    return links


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The scripts of docs/, importable for the length of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
        assert spec and spec.loader
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)
        names = ("method_pages", "paper_pages", "study_pages", "markdown_text", "curves")
        yield {"build": build, **{name: importlib.import_module(name) for name in names}}
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def site(scripts: dict[str, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("docs")
    (root / "results").mkdir()
    (root / "results" / "npo.json").write_text(json.dumps(EVIDENCE), encoding="utf-8")
    shutil.copytree(DOCS.parent / "results" / "studies", root / "results" / "studies")
    scripts["build"].build_site(root / "source", root / "site", root / "results")
    return root / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    return {page: read(page) for page in sorted(site.rglob("*.html"))}


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


def test_every_method_has_a_page_with_its_sentence(site: Path) -> None:
    cards = method_cards()
    assert {(c.family, c.name) for c in cards} == {(f, n) for f, members in families().items() for n in members}
    index = (site / "methods" / "index.html").read_text(encoding="utf-8")
    for family, name, card in cards:
        assert (site / "methods" / family / f"{name}.html").is_file(), f"{family}.{name} has no page"
        assert f'href="{family}/{name}.html"' in index
        assert card.summary in unescape(index)


def test_the_papers_page_lists_every_title_and_sentence_once(site: Path) -> None:
    text = unescape((site / "papers" / "index.html").read_text(encoding="utf-8"))
    assert text.count("<li data-text=") == len(paper_slugs()) == 73
    for slug in paper_slugs():
        paper = load_paper(slug).paper
        assert text.count(f'<a href="{slug}.html">{paper.title}</a>') == 1
        assert f"<p>{paper.summary}</p>" in text
        page = unescape((site / "papers" / f"{slug}.html").read_text(encoding="utf-8"))
        assert paper.summary in page and f"https://arxiv.org/abs/{paper.arxiv}" in page


def test_no_page_loads_anything_from_another_host(pages: dict[Path, Links]) -> None:
    loaded = [(page.name, url) for page, links in pages.items() for url in links.loaded]
    assert [(name, url) for name, url in loaded if urlsplit(url).scheme or urlsplit(url).netloc] == []
    own = [file for file in next(iter(pages)).parent.rglob("assets/*") if file.suffix in {".css", ".js"}]
    assert {file.name for file in own} >= {"filter.js", "site.css"}
    assert not any("http" in file.read_text(encoding="utf-8") for file in own)


def test_every_link_inside_the_site_leads_to_a_file(pages: dict[Path, Links]) -> None:
    for page, links in pages.items():
        if page.name == "404.html":  # served for any address, so its links are from the root of a server
            continue
        for link in links.links:
            parts = urlsplit(link)
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert parts.scheme or target.is_file(), f"{page.name} points to {link}"


def test_every_filter_field_has_a_label_and_can_be_reached_by_keyboard(site: Path) -> None:
    text = (site / "papers" / "index.html").read_text(encoding="utf-8")
    start = text.index('<form class="filters"')
    form = text[start : text.index("</form>", start)]
    assert len(re.findall(r"<label>[^<]+<(?:input|select) ", form)) == len(re.findall(r"<(?:input|select) ", form)) == 4
    assert re.findall(r'<select name="(\w+)"', form) == ["tag", "state", "year"]
    assert "tabindex" not in form and '<output aria-live="polite">' in form


def test_evidence_stands_on_the_papers_page_and_in_the_list(site: Path) -> None:
    page = (site / "papers" / "npo.html").read_text(encoding="utf-8")
    rows = re.findall(r"<tr>\s*<td>(.*?)</td>\s*<td>(.*?)</td>\s*<td>(.*?)</td>\s*<td>(.*?)</td>", page, re.DOTALL)
    assert rows == [("utility | gap", "0.1235", "-0.01 to 0.25", "nats"), ("seeds", "3", "", "")]
    text = unescape(re.sub(r"<[^>]+>", "", page))
    assert "Verdict: partly. One interval touches zero." in text
    assert "At equal forgetting it keeps more <utility>." in text
    assert "Settings: steps 40, beta 0.1." in text
    assert "Measured on: hardware processor two cores; commit abc123; seeds 0, 1, 2; 211 s of processor time." in text
    assert "evidence: partly" in (site / "papers" / "index.html").read_text(encoding="utf-8")


def test_a_claim_without_evidence_is_called_not_measured(scripts: dict[str, ModuleType]) -> None:
    from palimpsest.claim import Claim

    untested = type("Untested", (Claim,), {"says": "It works."})
    page = scripts["paper_pages"].paper_page(PaperEntry("npo", load_paper("npo").paper, (), (untested,)), None, set())
    assert "**State**: claimed" in page
    assert "### Untested\n\nIt works.\n\n**Verdict**: not measured yet" in page


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


def test_every_schedule_has_its_curve_and_nothing_else_has_one(site: Path) -> None:
    for family, members in families().items():
        for name in members:
            page = (site / "methods" / family / f"{name}.html").read_text(encoding="utf-8")
            figures = re.findall(
                r"<figure>\s*<svg .*?</svg>\s*<figcaption>.*?</figcaption>\s*</figure>", page, re.DOTALL
            )
            assert len(figures) == (family == "schedules"), f"{family}/{name}"
            if figures:
                assert 'role="img"' in figures[0] and f"<title>{name} with its default fields" in figures[0]
                assert not re.search(r"nan|inf\b", figures[0])


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
    scores = [Score(r.name, "old", "perplexity", 2.0, 1.9, 2.1, 96, better="lower") for r in runs]
    versus = Versus("after", "old", "perplexity", "retrained", "difference", 0.0312, 0.0201, 0.0423, 0.01)
    watched = Curve("after", "old/perplexity (every 8 steps)", ((0.0, 2.0), (8.0, 2.5)))
    report = Report("A study", "2026-11-24", runs=runs, scores=tuple(scores), versus=(versus,), curves=(watched,))
    page = scripts["study_pages"].study_page(report)
    cells = "2.00<br><small>1.90 to 2.10</small> | 0.031<br><small>0.020 to 0.042</small>"
    assert "old perplexity<br><small>minus retrained</small>" in page and f"| naive | {cells} |" in page
    assert page.count("<figure>") == 1 and "old/perplexity (every 8 steps), mean over the seeds" in page
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


def visible(dom: str) -> list[str]:
    """The titles that the page's script left in sight."""
    items = re.findall(r"<li (data-text=[^>]*)><h2[^>]*><a[^>]*>(.*?)</a>", dom)
    return [unescape(title) for attributes, title in items if 'hidden=""' not in attributes]


def test_the_filters_work_in_a_browser_from_disk(site: Path, browser: Callable[..., str]) -> None:
    def found(fragment: str) -> list[str]:
        return visible(browser(f"{(site / 'papers' / 'index.html').as_uri()}#{fragment}", "--dump-dom"))

    papers = [load_paper(slug).paper for slug in paper_slugs()]
    tagged = {p.title for p in papers if "diffusion" in p.tags and p.year == 2024}
    assert set(found("tag=diffusion&year=2024")) == tagged and len(tagged) > 1
    assert found("q=BREBISSON+standardized") == [load_paper("spherical-z-loss").paper.title]
    assert found("q=no+such+words") == []
    assert len(found("papers")) == len(papers)


def test_a_study_s_page_has_each_run_in_a_line_and_each_figure_in_a_column(site: Path) -> None:
    page = (site / "studies" / "split-digits.html").read_text(encoding="utf-8")
    tables = re.findall(r"<table>(.*?)</table>", page, re.DOTALL)
    heads, lines = re.findall(r"<th>(.*?)</th>", tables[0]), re.findall(r"<tr>\s*<td>(.*?)</td>", tables[0])
    assert heads[1] == "test 1 accuracy<br><small>higher is better, 72 items</small>" and len(heads) == 6
    assert lines[:2] == ["before", "task 1 to task 5"] and len(set(lines)) == len(lines) > 10
    assert re.search(r"<td>0\.\d+<br><small>-?\d\.\d+ to \d\.\d+</small></td>", tables[0])


@pytest.mark.parametrize("width", [400, 1200])
def test_a_wide_table_scrolls_in_its_own_frame(
    site: Path, browser: Callable[..., str], tmp_path: Path, width: int
) -> None:
    """The page never scrolls sideways, and the names of the rows stay in sight."""
    page = site / "studies" / "split-digits.html"
    script = """
      function measure() {
        const d = document.querySelector('iframe').contentDocument, frame = (t) => t.closest('.md-typeset__scrollwrap');
        const tables = [...d.querySelectorAll('.md-typeset table:not([class])')];
        if (!tables.every(frame)) return void setTimeout(measure, 50);  // the theme's script wraps them
        for (const t of tables) frame(t).scrollLeft = 9999;
        const left = (t) => t.rows[1].cells[0].getBoundingClientRect().left - frame(t).getBoundingClientRect().left;
        const moved = tables.filter(t => frame(t).scrollLeft > 0);
        document.documentElement.dataset.probe = [d.documentElement.scrollWidth, moved.length,
          Math.max(...moved.map(t => Math.abs(left(t))))].join(' ');
      }
      addEventListener('load', () => setTimeout(measure, 300));
    """
    frame = f'<iframe style="width:{width}px;height:900px;border:0" src="{page.as_uri()}"></iframe>'
    (tmp_path / "frame.html").write_text(f"<!DOCTYPE html><body>{frame}<script>{script}</script>", encoding="utf-8")
    flags = ["--dump-dom", "--allow-file-access-from-files", "--virtual-time-budget=5000", "--window-size=1300,1000"]
    dom = browser((tmp_path / "frame.html").as_uri(), *flags)
    found = re.search(r'data-probe="([\d.]+) (\d+) ([\d.]+)"', dom)
    assert found is not None, dom[:300]
    wide, moved, apart = map(float, found.groups())
    assert wide <= width and moved >= 1 and apart <= 17, "17 pixels are the margin inside the frame"
