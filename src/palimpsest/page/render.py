"""One report, or several to compare, as a single HTML file."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import math
from collections.abc import Sequence
from importlib import resources
from string import Template

from palimpsest.page import sections
from palimpsest.page.text import embed, escape, prose
from palimpsest.report import Item, Report

__all__ = ["merge", "render"]

_TITLES = {
    "verdicts": "Verdicts",
    "tradeoff": "Trade-off",
    "curves": "Learning curves",
    "stages": "Stages",
    "figures": "Figures",
    "cost": "Cost",
    "items": "Most changed",
    "provenance": "Recipe",
}


def render(report: Report | Sequence[Report]) -> str:
    """The page of one report; of several, one page whose runs carry their report's name.

    The page loads nothing: style, script and data are inside, and its content security policy allows no
    script but its own, by hash.
    """
    reports = [report] if isinstance(report, Report) else list(report)
    if not reports:
        raise ValueError("There is no report to show; give at least one.")
    shown = reports[0] if len(reports) == 1 else merge(reports)
    parts = [
        sections.verdicts(shown),
        sections.tradeoff(shown),
        sections.curves(shown),
        sections.stages(shown),
        sections.figures(shown),
        sections.costs(shown),
        sections.items(shown),
        _provenance(reports),
    ]
    script = _file("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    present = [name for name, part in zip(_TITLES, parts) if part]
    return Template(_file("template.html")).substitute(
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        title=escape(shown.name),
        about=_about(shown),
        contents="".join(f'<li><a href="#{name}">{_TITLES[name]}</a></li>' for name in present),
        warnings=_warnings(shown),
        sections="\n".join(part for part in parts if part),
        style=_file("style.css"),
        data=embed(_data(shown)),
        script=script,
    )


def merge(reports: Sequence[Report]) -> Report:
    """Several reports as one; a run ``after`` of the report ``npo`` becomes ``npo · after``."""
    names: list[str] = []
    for report in reports:
        same = sum(name == report.name or name.startswith(f"{report.name} (") for name in names)
        names.append(f"{report.name} ({same + 1})" if same else report.name)
    prefixed = [_prefixed(report, f"{name} · ") for report, name in zip(reports, names)]
    items: dict[tuple[str, str, str], Item] = {}
    for item in (item for report in prefixed for item in report.items):
        key = (item.role, item.audit, item.id)
        known = items.get(key)
        if known is not None:
            item = dataclasses.replace(
                known, outputs={**known.outputs, **item.outputs}, values={**known.values, **item.values}
            )
        items[key] = item
    order = list(dict.fromkeys((s.role, s.audit) for report in prefixed for s in report.scores))
    scores = sorted((s for report in prefixed for s in report.scores), key=lambda s: order.index((s.role, s.audit)))
    judged = list(dict.fromkeys((v.role, v.audit) for report in prefixed for v in report.verdicts))
    verdicts = sorted((v for r in prefixed for v in r.verdicts), key=lambda v: judged.index((v.role, v.audit)))
    return Report(
        name=" against ".join(names),
        created=max(report.created for report in reports),
        verdicts=tuple(verdicts),
        runs=tuple(r for report in prefixed for r in report.runs),
        scores=tuple(scores),
        changes=tuple(c for report in prefixed for c in report.changes),
        versus=tuple(v for report in prefixed for v in report.versus),
        curves=tuple(c for report in prefixed for c in report.curves),
        matrices=tuple(m for report in prefixed for m in report.matrices),
        items=tuple(items.values()),
        warnings=tuple(w for report in prefixed for w in report.warnings),
        seeds=tuple(sorted({seed for report in reports for seed in report.seeds})),
    )


def _prefixed(report: Report, prefix: str) -> Report:
    return dataclasses.replace(
        report,
        verdicts=tuple(dataclasses.replace(v, run=prefix + v.run) for v in report.verdicts),
        runs=tuple(
            dataclasses.replace(
                r,
                name=prefix + r.name,
                label=prefix + (r.label or r.name),
                before=prefix + r.before,
                retrained=prefix + r.retrained,
            )
            for r in report.runs
        ),
        scores=tuple(dataclasses.replace(s, run=prefix + s.run) for s in report.scores),
        changes=tuple(dataclasses.replace(c, run=prefix + c.run) for c in report.changes),
        versus=tuple(dataclasses.replace(v, run=prefix + v.run, reference=prefix + v.reference) for v in report.versus),
        curves=tuple(dataclasses.replace(c, run=prefix + c.run) for c in report.curves),
        matrices=tuple(dataclasses.replace(m, run=prefix + m.run) for m in report.matrices),
        items=tuple(
            dataclasses.replace(
                i,
                outputs={prefix + run: text for run, text in i.outputs.items()},
                values={prefix + run: value for run, value in i.values.items()},
            )
            for i in report.items
        ),
        warnings=tuple(prefix + w for w in report.warnings),
    )


def _about(report: Report) -> str:
    after = sum(run.kind == "after" for run in report.runs)
    others = len(report.runs) - after
    seeds = f"{len(report.seeds)} seed{'s' if len(report.seeds) != 1 else ''}"
    day = escape(report.created.replace("T", " ")[:16])
    held = f"{after} run{'s' if after != 1 else ''} held against {others}"
    measured = f"{others} model{'s' if others != 1 else ''} measured"
    return f"{day} · {held if after else measured} · {seeds}"


def _warnings(report: Report) -> str:
    if not report.warnings:
        return ""
    entries = "".join(f"<li>{prose(warning)}</li>" for warning in report.warnings)
    return f'<div class="warnings" role="note" aria-label="Warnings"><h2>Please note</h2><ul>{entries}</ul></div>'


def _provenance(reports: Sequence[Report]) -> str:
    body = ""
    for report in reports:
        inner = sections.provenance(report)
        heading = f"<h3>{escape(report.name)}</h3>" if inner and len(reports) > 1 else ""
        body += heading + inner
    return sections.section("provenance", "Recipe", body)


def _data(report: Report) -> dict[str, object]:
    """What the script needs to draw the trade-off on other axes."""
    keys = sections.keys_of(report)

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    scores: dict[str, dict[str, list[float | None]]] = {}
    for s in report.scores:
        place = str(keys.index((s.role, s.audit)))
        scores.setdefault(s.run, {})[place] = [finite(s.value), finite(s.low), finite(s.high)]
    return {
        "axes": [sections.axis_label(report, key) for key in keys],
        "runs": [
            {"name": r.label or r.name, "kind": sections.shape_of(r), "scores": scores.get(r.name, {})}
            for r in report.runs
        ],
    }


def _file(name: str) -> str:
    return resources.files("palimpsest.page").joinpath(name).read_text("utf-8")
