"""The site is built from the files, is complete, and loads nothing from elsewhere."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

from palimpsest.card import method_cards
from palimpsest.claim import load_paper, paper_slugs
from palimpsest.names import families

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
