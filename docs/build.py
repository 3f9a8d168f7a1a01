"""Builds the documentation site: ``python docs/build.py``.

Writes Markdown to ``site-src/`` (the hand-written pages, a page for each method and kernel from its file, for each
paper from ``claims/`` and ``results/``, for each study in ``results/studies/``, and one for the benches in
``results/bench/``) and calls mkdocs, which writes ``site/``.
The site opens from disk and loads nothing from another host.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from bench_pages import benches_page, load_benches
from method_pages import method_page, methods_index
from palimpsest.card import kernel_cards, method_cards
from palimpsest.claim import load_paper, paper_slugs
from paper_pages import load_results, paper_page, papers_index
from study_pages import load_peers, load_studies, recipe_file, studies_index, study_page

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
WRITTEN = ("index.md", "recipes.md", "design.md", "continual.md", "glossary.md", "tags.md")
"""The pages written by hand, in the order of the navigation."""


def write_source(source: Path, results: Path) -> list[Any]:
    """Fills ``source`` afresh with Markdown and returns the navigation for mkdocs."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(DOCS / "assets", source / "assets")
    for name in WRITTEN:
        shutil.copyfile(DOCS / name, source / name)
    cards = (*method_cards(), *kernel_cards())
    entries = [load_paper(slug) for slug in paper_slugs()]
    evidence = load_results(results, paper_slugs())
    used_by: dict[str, dict[str, str]] = defaultdict(dict)
    for entry in entries:
        for part in entry.parts:
            used_by[part][entry.slug] = entry.paper.title

    pages = [method_page(card, used_by[f"{card.family}.{card.name}"]) for card in cards]
    written = {f"{page.family}.{page.name}" for page in pages}
    for page in pages:
        _write(source / page.path, page.text)
    _write(source / "methods/index.md", methods_index(cards))
    for entry in entries:
        _write(source / f"papers/{entry.slug}.md", paper_page(entry, evidence.get(entry.slug), written))
    _write(source / "papers/index.md", papers_index(entries, evidence))

    studies, peers = load_studies(results / "studies"), load_peers(results / "bench")
    for name, report in studies.items():
        _write(source / f"studies/{name}.md", study_page(report, peers.get(name), recipe_file(name)))
    _write(source / "studies/index.md", studies_index(studies))
    _write(source / "benches.md", benches_page(load_benches(results / "bench")))

    by_family: dict[str, list[Any]] = defaultdict(list)
    for page in pages:
        by_family[page.family].append({page.name: page.path})
    methods = [{"All methods": "methods/index.md"}, *({family: members} for family, members in by_family.items())]
    return [
        {"Palimpsest": "index.md"},
        {"Recipes": "recipes.md"},
        {"Methods": methods},
        {"Papers": "papers/index.md"},
        {"Studies": ["studies/index.md", *(f"studies/{name}.md" for name in studies)]},
        {"Benches": "benches.md"},
        {"Design": "design.md"},
        {"Continual learning": "continual.md"},
        {"Glossary": "glossary.md"},
        {"Tags": "tags.md"},
    ]


def build_site(source: Path, site: Path, results: Path = ROOT / "results") -> None:
    """Writes the source and builds the site; any broken link ends with an error."""
    # The theme prints a notice about a coming release of mkdocs, which is none of the reader's business.
    os.environ.setdefault("DISABLE_MKDOCS_2_WARNING", "true")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    nav = write_source(source, results)
    config = load_config(str(ROOT / "mkdocs.yml"), docs_dir=str(source), site_dir=str(site), nav=nav, strict=True)
    build(config)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("--source", type=Path, default=ROOT / "site-src", help="where the generated Markdown goes")
    parser.add_argument("--site", type=Path, default=ROOT / "site", help="where the built site goes")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="where the measured evidence lies")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    build_site(given.source.resolve(), given.site.resolve(), given.results.resolve())
    print(f"The site is at {given.site.resolve() / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
