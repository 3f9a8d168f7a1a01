"""The list of papers, and a page for each with its claims and what was measured."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from html import escape as html
from pathlib import Path
from typing import Any

from markdown_text import escape, prose, span, table
from palimpsest.claim import Claim, Paper, PaperEntry

ABOUT = ("hardware", "commit", "seeds")
"""What a page says of a measurement beside its figures."""

STATES = {
    "planned": (
        "planned. No part of it is here yet; [these papers](index.md#state=claimed) and"
        " [methods](../methods/index.md) are."
    ),
    "implemented": "implemented. Its parts are here; no experiment tests yet what it says.",
    "claimed": "claimed. Its parts are here, and experiments test what it says.",
}
"""The state of a paper, and what it means."""

Result = Mapping[str, Any]
Row = tuple[dict[str, list[str]], str, str]
"""An entry of a filtered list: the values it is filtered by, the text that is searched, its HTML."""


def load_results(folder: Path, slugs: Sequence[str]) -> dict[str, Result]:
    """The measured evidence of each paper that has a file; an unreadable file is an error that names it.

    Evidence of the budget gpu lies in a file of its own, ``<slug>-gpu.json``; its claims stand beside the others as
    ``<claim> (gpu)``.
    """
    found: dict[str, Result] = {}
    for slug in slugs:
        for budget, name in (("cpu", slug), ("gpu", f"{slug}-gpu")):
            result = _load(folder / f"{name}.json", f"palimpsest verify {slug} --budget {budget}")
            if result is not None:
                found[slug] = result if budget == "cpu" else _joined(found.get(slug), result)
    return found


def _load(file: Path, command: str) -> Result | None:
    """One file of evidence, or None where there is none; ``command`` writes it."""
    if not file.is_file():
        return None
    try:
        result: Result = json.loads(file.read_text(encoding="utf-8"))
        for claim in result["claims"]:
            _ = claim["claim"], claim["says"], claim["evidence"]["verdict"], claim["evidence"]["figures"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not evidence ({error!r}); write it with `{command}`.") from error
    return result


def _joined(cpu: Result | None, gpu: Result) -> Result:
    """Both budgets' claims in one result; what they were measured on, one after the other."""
    claims = [{**claim, "claim": f"{claim['claim']} (gpu)"} for claim in gpu["claims"]]
    if cpu is None:
        return {**gpu, "claims": claims}
    about = {key: f"{_plain(cpu[key])} and {_plain(gpu[key])} (gpu)" for key in ABOUT if key in cpu and key in gpu}
    return {**cpu, **about, "claims": [*cpu["claims"], *claims]}


def paper_page(entry: PaperEntry, result: Result | None, methods: set[str]) -> str:
    """The Markdown of one paper; ``methods`` are the ``family.name`` that have a page."""
    paper = entry.paper
    facts = escape(_published(paper)) + (f", [arXiv {paper.arxiv}]({paper.url})" if paper.url else "")
    parts = [f"# {escape(paper.title)}", facts, escape(paper.summary)]
    parts.append("**Tags**: " + ", ".join(f"[{tag}](index.md#tag={tag})" for tag in paper.tags))
    parts.append(f"**State**: {STATES[entry.state]}")
    if entry.parts:
        parts.append("**Parts**: " + ", ".join(_part_link(part, methods) for part in entry.parts))
    measured = {} if result is None else {claim["claim"]: claim for claim in result["claims"]}
    if entry.claims or measured:
        parts.append("## Claims")
        parts.append(f"Run them with {span(f'palimpsest verify {entry.slug}')}.")
    for claim in entry.claims:
        if claim.__name__ not in measured:
            said = [prose(claim.says), *_experiment(claim)]
            parts += [f"### {escape(claim.__name__)}", *said, "**Verdict**: not measured yet"]
    experiments = {claim.__name__: _experiment(claim) for claim in entry.claims}
    for name, claim_result in measured.items():
        said = [prose(claim_result["says"]), *experiments.get(name.removesuffix(" (gpu)"), [])]
        parts += [f"### {escape(name)}", *said, *_evidence(claim_result["evidence"])]
    if result is not None:
        about = [f"{key} {escape(_plain(result[key]))}" for key in ABOUT if key in result]
        if "processor_seconds" in result:
            about.append(f"{result['processor_seconds']:.0f} s of processor time")
        parts.append(f"Measured on: {'; '.join(about)}.")
    return "\n\n".join(parts) + "\n"


def _experiment(claim: type[Claim]) -> list[str]:
    """How a claim is tested and when it counts as shown, where it says so."""
    text = vars(claim).get("__doc__")
    return [f"**Experiment**: {prose(inspect.cleandoc(text))}"] if text else []


def papers_index(entries: Sequence[PaperEntry], results: Mapping[str, Result]) -> str:
    """The list of all papers, searched and filtered in the browser."""
    rows: list[Row] = []
    for entry in sorted(entries, key=lambda e: e.paper.title.casefold()):
        paper = entry.paper
        verdicts = [claim["evidence"]["verdict"] for claim in results.get(entry.slug, {"claims": ()})["claims"]]
        evidence = f" · evidence: {', '.join(map(html, verdicts))}" if verdicts else ""
        link = f' · <a href="{html(paper.url)}">arXiv {paper.arxiv}</a>' if paper.url else ""
        tags = " ".join(f'<a class="tag" href="#tag={tag}">{html(tag)}</a>' for tag in paper.tags)
        body = (
            f'<h2><a href="{entry.slug}.html">{html(paper.title)}</a></h2><p>{html(paper.summary)}</p>'
            f'<p class="meta">{html(_published(paper))} · {entry.state}{evidence}{link}</p>'
            f'<p class="tags">{tags}</p>'
        )
        values: dict[str, list[str]] = {"tag": list(paper.tags), "state": [entry.state], "year": [str(paper.year)]}
        about = [entry.slug, paper.title, paper.summary, paper.authors, paper.venue, paper.arxiv]
        searched = [*about, *paper.tags, *entry.parts, *(claim.says for claim in entry.claims)]
        rows.append((values, " ".join(filter(None, searched)), body))
    return (
        "# Papers\n\nEach paper has one sentence of our own, the state of its parts and, where its claims were run, "
        "what was measured. *Planned* papers have no part here yet, *implemented* ones have, *claimed* ones also "
        "have an experiment that tests what they say. The year is that of the first public version.\n\n"
        + entry_list("papers", ["tag", "state", "year"], rows)
    )


def entry_list(label: str, keys: Sequence[str], rows: Sequence[Row]) -> str:
    """A list and the form that filters it. Without JavaScript the form stays hidden and the list is whole."""
    selects = []
    for key in keys:
        offered = sorted({value for row in rows for value in row[0][key]}, reverse=key == "year")
        options = "".join(f'<option value="{html(v)}">{html(v)}</option>' for v in offered)
        options = f'<option value="">any</option>{options}'
        selects.append(f'<label>{key.capitalize()}<select name="{key}">{options}</select></label>')
    form = (
        f'<form class="filters" data-list="{label}-list" role="search" hidden>'
        f'<label>Search {label}<input type="search" name="q" autocomplete="off"></label>{"".join(selects)}'
        '<button type="reset">Clear</button><output aria-live="polite"></output></form>'
    )
    items = []
    for values, searched, body in rows:
        data = "".join(f' data-{key}="{html("|".join(values[key]))}"' for key in keys)
        items.append(f'<li data-text="{html(" ".join(searched.split()))}"{data}>{body}</li>')
    return f'{form}\n<ul class="entries" id="{label}-list">\n' + "\n".join(items) + "\n</ul>\n"


def _published(paper: Paper) -> str:
    """Authors, year and venue; a venue that names the year already stands for both."""
    year = [] if paper.venue and str(paper.year) in paper.venue else [str(paper.year)]
    return ", ".join([paper.authors, *year, *([paper.venue] if paper.venue else [])])


def _part_link(part: str, methods: set[str]) -> str:
    family, _, name = part.partition(".")
    return f"[{span(part)}](../methods/{family}/{name}.md)" if part in methods else span(part)


def _evidence(evidence: Mapping[str, Any]) -> list[str]:
    """Verdict, reason, the figures with their intervals, and the settings."""
    sections = [f"**Verdict**: {escape(evidence['verdict'])}. {prose(evidence.get('because', ''))}".strip()]
    rows = [
        [escape(f["name"]), _number(f["value"]), _interval(f.get("low"), f.get("high")), escape(f.get("unit") or "")]
        for f in evidence["figures"]
    ]
    if rows:
        sections.append(table(["Figure", "Value", "95 % interval", "Unit"], rows))
    settings = evidence.get("settings") or {}
    if settings:
        sections.append("Settings: " + ", ".join(f"{escape(str(k))} {span(str(v))}" for k, v in settings.items()) + ".")
    return sections


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{_number(low)} to {_number(high)}"


def _plain(value: Any) -> str:
    """JSON values as readable words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value)
