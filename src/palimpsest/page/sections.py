"""The sections of the page, each a function from a report to HTML; a section without content is empty text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from palimpsest.page import charts, tables
from palimpsest.page.tables import figure_name, label_of
from palimpsest.page.text import amount, digits_of, escape, marked, prose
from palimpsest.report import Item, Report, Run, Verdict
from palimpsest.verdict import figure_of

__all__ = [
    "axis_label",
    "costs",
    "curves",
    "figures",
    "items",
    "keys_of",
    "provenance",
    "section",
    "shape_of",
    "stages",
    "tradeoff",
    "verdicts",
]

SEPARATOR = " · "
"""Stands between a report's name and its run's, where several reports share a page."""

_SIGNS = {
    "learned": '<path d="M10 5.5v9M5.5 10h9"/>',
    "retained": '<path d="M6 8h8M6 12h8"/>',
    "forgotten": '<path d="M5.5 10h9"/>',
    "lost": '<path d="M6.5 6.5l7 7M13.5 6.5l-7 7"/>',
    "failed": '<path d="M6.5 13.5l7-7"/>',
    "not shown": '<path d="M7.6 7.8c.2-3.2 5-2.9 4.7.2-.2 1.7-2.3 1.6-2.3 3.5M10 14.1v.1"/>',
}


def shape_of(run: Run) -> str:
    """The kind of mark a run is drawn with; the retrained model has one of its own."""
    name = run.name.rsplit(SEPARATOR, 1)[-1]
    return "reference" if name == "retrained" or name.endswith(": retrained") else run.kind


def section(name: str, heading: str, body: str, lead: str = "") -> str:
    """A landmark with a heading beside its content."""
    if not body:
        return ""
    intro = f'<p class="lead">{prose(lead)}</p>' if lead else ""
    return (
        f'<section id="{name}" aria-labelledby="{name}-heading"><h2 id="{name}-heading">{heading}</h2>'
        f'<div class="content">{intro}{body}</div></section>'
    )


def verdicts(report: Report) -> str:
    """The first thing on the page: what was expected, and whether it is shown."""
    if not report.verdicts:
        return section("verdicts", "Verdicts", "<p>No expectation was stated, so there is no verdict.</p>")
    found = [v.verdict for v in report.verdicts]
    tally = ", ".join(f"{found.count(kind)} {kind}" for kind in _SIGNS if kind in found)
    expected = f"{len(found)} expectation{'s' if len(found) > 1 else ''}"
    entries = "".join(_verdict(report, v) for v in report.verdicts)
    return section("verdicts", "Verdicts", f'<ul class="verdicts">{entries}</ul>', f"Of {expected}: {tally}.")


def _verdict(report: Report, verdict: Verdict) -> str:
    circle = '<circle cx="10" cy="10" r="8.6"/>'
    sign = f'<svg class="sign" viewBox="0 0 20 20" aria-hidden="true">{circle}{_SIGNS[verdict.verdict]}</svg>'
    several = len({v.run for v in report.verdicts}) > 1
    run = f' <span class="of">{escape(label_of(report, verdict.run))}</span>' if several else ""
    key = (verdict.role, verdict.audit)
    rest = verdict.sentence.removeprefix(f"{figure_of(*key, report.unit_of(*key))} ")  # the heading says it already
    rest = rest.removeprefix(f"{figure_of(*key, '')} ")  # sentences once had no unit
    return (
        f'<li class="verdict {verdict.verdict.replace(" ", "-")}"><div class="finding">{sign}'
        f"<strong>{verdict.verdict.capitalize()}</strong></div>"
        f"<div><h3>{figure_name(report, *key)}{run}</h3><p>{prose(rest[:1].upper() + rest[1:])}</p>"
        f'<p class="expected">Expected: {prose(verdict.expect)}</p></div>{_strip(report, verdict)}</li>'
    )


def _strip(report: Report, verdict: Verdict) -> str:
    """The runs that a verdict is about, on one line."""
    prefix = verdict.run[: verdict.run.rfind(SEPARATOR) + len(SEPARATOR)] if SEPARATOR in verdict.run else ""
    run = next((r for r in report.runs if r.name == verdict.run), None)
    wanted = [run.before if run else f"{prefix}before", verdict.run]
    if verdict.expect.startswith("nearer "):
        goal = prefix + verdict.expect.removeprefix("nearer ")
        wanted.append(run.retrained if run and goal == f"{prefix}retrained" else goal)
    all_marks = _marks(report, (verdict.role, verdict.audit))
    marks = [all_marks[run] for run in wanted if run in all_marks]
    if not marks:
        return ""
    spoken = ", ".join(f"{mark.label} {amount(mark.x[0])}" for mark in marks)
    marks = [dataclasses.replace(mark, label=mark.label.removeprefix(prefix)) for mark in marks]
    return f"<figure>{charts.strip(marks, f'{verdict.role} / {verdict.audit}: {spoken}')}</figure>"


def _marks(report: Report, key: tuple[str, str]) -> dict[str, charts.Mark]:
    """Every run that has the figure, as it is drawn."""
    kinds = {run.name: shape_of(run) for run in report.runs}
    return {
        s.run: charts.Mark(label_of(report, s.run), kinds.get(s.run, "baseline"), (s.value, s.low, s.high))
        for s in report.scores
        if (s.role, s.audit) == key and math.isfinite(s.value)
    }


def keys_of(report: Report) -> list[tuple[str, str]]:
    """All (role, audit) pairs in the order of the report."""
    return list(dict.fromkeys((s.role, s.audit) for s in report.scores))


def default_axes(report: Report) -> tuple[tuple[str, str], tuple[str, str]] | None:
    """The forget role across and another role upward, judged figures first; None where there is one figure only."""
    keys = keys_of(report)
    judged = [(v.role, v.audit) for v in report.verdicts]
    ranked = sorted(keys, key=lambda k: judged.index(k) if k in judged else len(judged) + keys.index(k))
    if len(keys) < 2:
        return None
    across = next((k for k in ranked if k[0] == "forget"), ranked[0])
    upward = next((k for k in ranked if k[0] != across[0]), next(k for k in ranked if k != across))
    return across, upward


def axis_label(report: Report, key: tuple[str, str]) -> str:
    """``forget / knowledge memorization (nearer retrained is better)``."""
    score = next(s for s in report.scores if (s.role, s.audit) == key)
    unit = f", {score.unit}" if score.unit else ""
    return f"{key[0]} / {key[1].replace('_', ' ')}{unit} ({score.better.replace(':', ' ')} is better)"


def tradeoff(report: Report) -> str:
    """The scatter of two figures over the runs, with its axes to choose."""
    axes = default_axes(report)
    if axes is None:
        return ""
    x, y = (_marks(report, key) for key in axes)
    marks = [charts.Mark(x[run].label, x[run].kind, x[run].x, y[run].x) for run in x if run in y]
    drawing = charts.tradeoff(marks, axis_label(report, axes[0]), axis_label(report, axes[1])) if marks else ""
    keys = keys_of(report)
    across, upward = (_choice(name, keys, key) for name, key in (("x", axes[0]), ("y", axes[1])))
    choices = f"<label>Upward {upward}</label><label>Across {across}</label>"
    body = (
        f'<div class="choices needs-script" hidden>{choices}</div>'
        f'<figure id="tradeoff-figure" tabindex="0">{drawing}</figure>'
        f"<details><summary>The points as a table</summary>{tables.points_table(report, keys)}</details>"
    )
    return section("tradeoff", "Trade-off", body, "Each run at two of its figures; the crosses are 95 % intervals.")


def _choice(axis: str, keys: Iterable[tuple[str, str]], chosen: tuple[str, str]) -> str:
    options = ""
    for place, key in enumerate(keys):
        name = escape(" / ".join(key)).replace("_", " ")
        options += f'<option value="{place}"{" selected" if key == chosen else ""}>{name}</option>'
    return f'<select id="axis-{axis}">{options}</select>'


def curves(report: Report) -> str:
    """Learning curves, one panel for each quantity."""
    labels = {run.name: run.label or run.name for run in report.runs}
    kinds: dict[str, str] = {run.name: run.kind for run in report.runs}
    panels = ""
    for name in dict.fromkeys(curve.name for curve in report.curves):
        drawing = charts.curve_panel(name, [c for c in report.curves if c.name == name], labels, kinds)
        if drawing:
            panels += f"<figure><figcaption>{escape(name).replace('_', ' ')}</figcaption>{drawing}</figure>"
    if not panels:
        return ""
    alternative = f"<details><summary>The curves as a table</summary>{tables.curve_table(report, labels)}</details>"
    return section("curves", "Learning curves", f'<div class="panels">{panels}</div>{alternative}')


def stages(report: Report) -> str:
    """Figures of the stage matrices of all runs, and each matrix as a heat map that is a table."""
    body = ""
    for audit in dict.fromkeys(matrix.audit for matrix in report.matrices):
        of_audit = [matrix for matrix in report.matrices if matrix.audit == audit]
        body += tables.stage_table(report, of_audit) + tables.difference_table(report, of_audit)
        for place, matrix in enumerate(of_audit):
            table = tables.heat_table(report, matrix)
            name = escape(label_of(report, matrix.run))
            body += table if place == 0 else f"<details><summary>{name}, stage by stage</summary>{table}</details>"
    figures = [f for m in report.matrices for f in (*m.figures, *m.differences) if math.isfinite(f.low)]
    alone = ", of what happened between the stages (measured every so many steps) over seeds alone"
    lead = (
        "Every task before the first stage and after each; a dash where a figure is undefined. Intervals are over "
        f"items and seeds{'' if all(f.over_items for f in figures) else alone}."
    )
    return section("stages", "Stages", body, lead)


def figures(report: Report) -> str:
    """All figures with paired intervals, and what variants are above the run after."""
    return section("figures", "Figures", tables.figure_table(report) + tables.variant_table(report))


def costs(report: Report) -> str:
    """What every run took."""
    return section("cost", "Cost", tables.cost_table(report))


def items(report: Report) -> str:
    """The items that changed most, their outputs side by side."""
    groups = ""
    for place, key in enumerate(dict.fromkeys((item.role, item.audit) for item in report.items)):
        of_key = [item for item in report.items if (item.role, item.audit) == key]
        entries = "".join(_item(report, item) for item in of_key)
        several = f"{len(of_key)} item{'s' if len(of_key) != 1 else ''}"
        summary = f'<summary><h3>{figure_name(report, *key)}</h3> <span class="of">{several}</span></summary>'
        groups += f'<details class="group"{" open" if place == 0 else ""}>{summary}{entries}</details>'
    lead = "The items that moved furthest between before and after. Words of the expected answer are underlined."
    if len(report.seeds) > 1:
        lead += " Values are means over the seeds, texts are those of the first."
    return section("items", "Most changed", groups, lead)


def _item(report: Report, item: Item) -> str:
    kinds = {run.name: shape_of(run) for run in report.runs}
    order = ("before", "after", "reference")
    main = sorted((r for r in item.outputs if kinds.get(r) in order), key=lambda r: order.index(kinds[r]))
    others = [run for run in item.outputs if run not in main]
    digits = digits_of(*item.values.values())
    shown = f'<div class="outputs">{"".join(_output(report, item, run, digits, kinds[run]) for run in main)}</div>'
    if others:
        inner = "".join(_output(report, item, run, digits, "other") for run in others)
        shown += f'<details><summary>Other runs</summary><div class="outputs">{inner}</div></details>'
    asked = f'<p class="prompt" dir="auto">{escape(item.prompt)}</p>' if item.prompt else ""
    wanted = f'<p class="target"><span>Expected</span> <bdi>{escape(item.target)}</bdi></p>' if item.target else ""
    change = f'<span class="of">change {amount(item.change, digits, signed=True)}</span>'
    head = f"<h4><bdi>{escape(item.id)}</bdi> {change}</h4>"
    return f'<article class="item">{head}{asked}{wanted}{shown}</article>'


def _output(report: Report, item: Item, run: str, digits: int, kind: str) -> str:
    value = f'<span class="of">{amount(item.values[run], digits)}</span>' if run in item.values else ""
    text = marked(item.outputs[run], item.target)
    name = escape(label_of(report, run))
    return f'<div class="output {kind}"><h5>{name} {value}</h5><p dir="auto">{text}</p></div>'


def provenance(report: Report) -> str:
    """The resolved recipe, which runs again, and where it ran."""
    body = ""
    if report.recipe:
        body += f'<details><summary>Resolved recipe</summary><pre tabindex="0">{escape(report.recipe)}</pre></details>'
    if report.environment:
        facts = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in report.environment.items())
        body += f'<details><summary>Environment</summary><dl class="facts">{facts}</dl></details>'
    return body
