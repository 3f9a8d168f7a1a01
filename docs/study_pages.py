"""A page for each study: what a longer run of a recipe measured, kept in ``results/studies/``.

``python docs/study_pages.py runs/tofu/report.json`` keeps a report there. The items that stand side by side in a report
are left out: they quote the data, which may be somebody else's.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from curves import measured
from markdown_text import code, escape, prose, span, table
from palimpsest.between_stages import FIGURES as BETWEEN
from palimpsest.card import method_cards
from palimpsest.claims._evidence import over_seeds
from palimpsest.dose_response import slope
from palimpsest.environment import commit_of
from palimpsest.report import Report, Run, Score, StageFigure, Versus
from palimpsest.statistics import Interval, hedges_g_of_groups
from palimpsest.verdict import decimals, number
from palimpsest.yaml_text import parse

ROOT = Path(__file__).resolve().parent.parent
STUDIES = ROOT / "results" / "studies"
DATA = (".csv", ".json", ".jsonl", ".parquet")
"""How the names of data files end."""
WIDE = "---\nhide: [toc]\n---"
"""The head of a page whose tables need the room of the table of contents."""
MOST_PICTURES = 6
"""A study that watched more quantities than this leaves their curves to its report."""
AFTER = "after"
"""The run that a recipe is about: its variants are held against it."""


def load_studies(folder: Path) -> dict[str, Report]:
    """The kept reports by name; a file that is none is an error that names it."""
    return {file.stem: Report.load(file) for file in sorted(folder.glob("*.json"))}


def load_peers(folder: Path) -> dict[str, Any]:
    """Study -> what a bench measured of another library on its protocol."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    return {peer["study"]: peer for peer in found if isinstance(peer, dict) and "study" in peer}


def recipe_file(name: str) -> Path | None:
    """The recipe of the study ``name``: a run folder, and so a study, has the name of its recipe, as that file has."""
    files = (ROOT / "recipes" / f"{name}{ending}" for ending in (".yaml", ".py"))
    return next((file for file in files if file.is_file()), None)


def study_page(report: Report, peer: Mapping[str, Any] | None = None, file: Path | None = None) -> str:
    """The Markdown of one study: what it asks, verdicts, every figure of every run, cost, and how it was run.

    ``file`` is its recipe, where that is known.
    """
    parts = [WIDE, f"# {escape(report.name)}"]
    if file is not None:
        parts.append(prose(_about(file)))
    if report.verdicts:
        parts.append("\n".join(f"- **{v.verdict.capitalize()}**: {escape(v.sentence)}" for v in report.verdicts))
    if treatments := _doses(report):
        parts += ["## Dose and response", *_responses(report, treatments)]
    parts += ["## Figures", *_audits(report), _figures(report), *_against_after(report)]
    for audit in dict.fromkeys(m.audit for m in report.matrices):
        parts += [f"## {escape(_words(audit))} over the stages", _over_stages(report, audit)]
    if pictures := _pictures(report):
        parts += ["## On the way", *pictures]
    if peer is not None:
        parts += ["## Beside Avalanche", *_beside(peer)]
    parts += ["## Cost", _costs(report.runs), "## How it was run", *_how(report, file)]
    about = ", ".join(f"{escape(key)} {escape(str(value))}" for key, value in report.environment.items())
    seeds = ", ".join(map(str, report.seeds))
    parts.append(f"Measured on {escape(report.created[:10])}, seeds {seeds}: {about}.")
    if doubt := _doubt(str(report.environment.get("commit", ""))):
        parts.append(doubt)
    if len(report.seeds) == 1:
        parts.append("There is one seed: the intervals are over items alone, without what another would change.")
    return "\n\n".join(parts) + "\n"


def _about(file: Path) -> str:
    """What a recipe says of itself: the docstring of a Python file, the comment at the head of a YAML file."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        return (ast.get_docstring(ast.parse(text), clean=False) or "").rstrip()
    lines = text.splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[:end])


def _how(report: Report, file: Path | None) -> list[str]:
    """The command, the data that it needs beside what comes along, and the recipe as it was run."""
    found = []
    if file is not None:
        allowed = " --allow-imports" if file.suffix == ".py" else ""
        found.append(code(f"palimpsest run recipes/{file.name}{allowed}", "sh"))
    if files := _files(report.recipe):
        found.append(f"It reads data that do not come along: {', '.join(map(span, files))}.")
    found += ["The recipe, with its defaults:", code(report.recipe.strip(), "yaml")]
    return found


def _files(recipe: str) -> list[str]:
    """The data files that the roles of a recipe are read from."""
    found: dict[str, None] = {}
    for spec in ((parse(recipe) or {}).get("roles") or {}).values():
        named = [spec.get("file"), spec.get("answers")] if isinstance(spec, dict) else [spec]
        found |= {name: None for name in named if isinstance(name, str) and name.endswith(DATA)}
    return list(found)


def studies_index(studies: dict[str, Report]) -> str:
    """The list of studies, each with the first sentence that its recipe says of itself."""
    lines = [
        "# Studies",
        "Longer runs of recipes. Each page has every figure with its 95 % interval, and how to run it again.",
    ]
    for name, report in studies.items():
        file = recipe_file(name)
        first = "" if file is None else re.split(r"(?<=[.:])\s", " ".join(_about(file).split()))[0].rstrip(":.")
        about = "" if first in ("", report.name) else f": {prose(first)}."
        lines.append(f"- [{escape(report.name)}]({name}.md){about}")
    return "\n\n".join(lines) + "\n"


def _pictures(report: Report) -> list[str]:
    """What stages measured on the way, a picture for each quantity with a line for each run.

    Lines that coincide are drawn once: a run may stand in a recipe under two names.
    """
    labels = {run.name: run.label or run.name for run in report.runs}
    names = list(dict.fromkeys(curve.name for curve in report.curves if "(every " in curve.name))
    if len(names) > MOST_PICTURES:
        return []
    found = []
    for name in names:
        drawn = {
            tuple(p for p in c.points if math.isfinite(p[1])): labels[c.run] for c in report.curves if c.name == name
        }
        lines = {label: points for points, label in drawn.items() if points}
        if lines:
            unit = _unit(report, name.partition(" (every ")[0].rpartition("/")[2])
            found.append(measured(lines, f"{name}, {f'in {unit}, ' if unit else ''}mean over the seeds"))
    return found


def _figures(report: Report) -> str:
    """One line a run, one column an audit of a role and, where there is one, its paired difference to the retrained."""
    found = {(s.run, s.role, s.audit): s for s in report.scores}
    versus = {(v.run, v.role, v.audit): v for v in report.versus if v.kind == "difference" and v.reference != AFTER}
    compared = {key[1:] for key in versus}
    header = [""]
    for key in dict.fromkeys((s.role, s.audit) for s in report.scores):
        name = escape(_words(" ".join(key)))
        header.append(f"{name}<br><small>{_direction(report, *key)}</small>")
        header += [f"{name}<br><small>minus retrained</small>"] if key in compared else []
    lines = []
    for run in report.runs:
        line = [escape(run.label or run.name)]
        for key in dict.fromkeys((s.role, s.audit) for s in report.scores):
            line.append(_shown(found.get((run.name, *key))))
            line += [_shown(versus.get((run.name, *key)))] if key in compared else []
        lines.append(line)
    return table(header, lines)


def _audits(report: Report) -> list[str]:
    """What each audit measures, with a way to its page."""
    about = {card.name: card.card.summary for card in method_cards() if card.family == "audits"}
    named = [name for name in dict.fromkeys(s.audit for s in report.scores) if name in about]
    lines = [f"- [{escape(_words(name))}](../methods/audits/{name}.md): {prose(about[name])}" for name in named]
    return ["\n".join(lines)] if lines else []


def _against_after(report: Report) -> list[str]:
    """One line a variant, one column an audit of a role: the paired difference to the run that the recipe is about."""
    found = {(v.run, v.role, v.audit): v for v in report.versus if v.reference == AFTER}
    if not found:
        return []
    keys = list(dict.fromkeys(key[1:] for key in found))
    lines = [
        [escape(run.label or run.name), *(_shown(found.get((run.name, *key))) for key in keys)]
        for run in report.runs
        if run.name in {key[0] for key in found}
    ]
    return [_minus(report), table(["", *(escape(_words(" ".join(key))) for key in keys)], lines)]


def _minus(report: Report) -> str:
    """What a table of differences holds."""
    label = next((run.label or run.name for run in report.runs if run.name == AFTER), AFTER)
    return f"The same minus that of {escape(label)}, paired by item and seed:"


def _words(name: str) -> str:
    """A name of the code as words of a text."""
    return name.replace("_", " ")


def _shown(figure: Score | Versus | None) -> str:
    """A value and its interval, in as many digits as the value takes."""
    return "" if figure is None else _with_interval(figure.value, figure.low, figure.high, decimals(figure.value))


def _over_stages(report: Report, audit: str) -> str:
    """One line a run, one column a figure of its stage matrix; the same as differences; the matrix of the first run."""
    matrices = [m for m in report.matrices if m.audit == audit]
    labels = {run.name: run.label or run.name for run in report.runs}
    unit = _unit(report, audit)
    what = "[What each column says](../continual.md#protocols-and-figures)" + (
        f", of values in {unit}." if unit else "."
    )
    parts = [what, _figures_of_stages([(labels[m.run], m.figures) for m in matrices])]
    if differences := [(labels[m.run], m.differences) for m in matrices if m.differences]:
        parts += [_minus(report), _figures_of_stages(differences)]
    shown = [f for m in matrices for f in (*m.figures, *m.differences) if f.name.partition(" ")[0] in BETWEEN]
    if any(math.isfinite(f.low) and not f.over_items for f in shown):
        parts.append("Intervals are over items and seeds, of what was watched on the way over seeds alone.")
    first = matrices[0]
    stages = [[escape(s), *(number(v, 3) for v in row)] for s, row in zip(first.stages, first.values, strict=True)]
    parts += [f"{escape(labels[first.run])}, stage by stage:", table(["after", *map(escape, first.roles)], stages)]
    return "\n\n".join(parts)


def _unit(report: Report, audit: str) -> str:
    """What an audit counts in, "" for a share."""
    return next((escape(s.unit) for s in report.scores if s.audit == audit and s.unit), "")


def _figures_of_stages(runs: Sequence[tuple[str, Sequence[StageFigure]]]) -> str:
    """One line a run, one column a figure; those that no run has are left out."""
    names = list(dict.fromkeys(f.name for _, own in runs for f in own if math.isfinite(f.value)))
    lines = []
    for label, own in runs:
        found = {f.name: f for f in own if math.isfinite(f.value)}
        lines.append([escape(label), *(_interval(found[n]) if n in found else "–" for n in names)])
    return table(["", *(escape(_words(name)) for name in names)], lines)


def _interval(figure: StageFigure | Interval) -> str:
    """A value and its interval; a dash where it is undefined."""
    return _with_interval(figure.value, figure.low, figure.high, 3) if math.isfinite(figure.value) else "–"


def _with_interval(value: float, low: float, high: float, digits: int) -> str:
    """A value, and below it its interval, where it has one: side by side they would make every column wide."""
    shown = number(value, digits)
    if not math.isfinite(low):
        return shown
    return f"{shown}<br><small>{number(low, digits)} to {number(high, digits)}</small>"


def _doses(report: Report) -> dict[str, dict[float, str]]:
    """Treatment -> dose -> the run that had it, by labels such as "dose 0.2" or "short prose: dose 0.2"."""
    found: dict[str, dict[float, str]] = {}
    for run in report.runs:
        match = re.fullmatch(r"(?:(.+): )?dose ([0-9.]+)", run.label or run.name)
        if match is not None:
            found.setdefault(match[1] or "", {})[float(match[2])] = run.name
    return {name: dict(sorted(arms.items())) for name, arms in found.items() if len(arms) > 1}


def _responses(report: Report, treatments: Mapping[str, Mapping[float, str]]) -> list[str]:
    """What a figure does over the doses of each treatment, from its value with each seed."""
    per_seed = {(s.run, s.role, s.audit): s.per_seed for s in report.scores}
    doses = sorted({dose for arms in treatments.values() for dose in arms})
    lines = []
    for role, audit in dict.fromkeys((s.role, s.audit) for s in report.scores):
        for name, arms in treatments.items():
            found = {dose: per_seed[run, role, audit] for dose, run in arms.items()}
            means = [number(fmean(found[dose]), 3) if dose in found else "" for dose in doses]
            lines.append([escape(name), escape(f"{role} / {audit}"), *means, *map(_interval, _curve(found))])
    header = ["", "", *(f"{dose:g}" for dose in doses), "slope", "Hedges' g of the ends"]
    about = (
        "Means over seeds. The slope is that of a straight line from dose 0 to dose 1, with a 95 % interval over seeds;"
        " g is above 0 where the whole dose lowers a figure, each seed being one value of each group."
    )
    return [about, table(header, lines)]


def _curve(found: Mapping[float, Sequence[float]]) -> tuple[Interval, Interval]:
    """The slope of a curve, and the effect size of its ends, which is undefined where no value varies."""
    arms = list(found.values())  # [doses][seeds]
    slopes = over_seeds([float(slope(list(found), list(curve))) for curve in zip(*arms, strict=True)])
    try:
        return slopes, hedges_g_of_groups(arms[0], arms[-1])
    except ValueError:
        return slopes, Interval(math.nan, math.nan, math.nan)


def _beside(peer: Mapping[str, Any]) -> list[str]:
    """The figures of both libraries and their paired difference."""
    about = peer["about"]
    text = (
        f"Three of the methods on the same stream in avalanche-lib {escape(about['avalanche-lib'])}, in one run with"
        f" {about['seeds']} seeds: the same rows, network, first weights, rate, batches of 32, seven epochs a task and"
        f" reservoir of 200; rows come in other orders. Made by {span('bench/stream_peer.py')}. Means with 95 %"
        " intervals over seeds; the difference, Palimpsest minus Avalanche, is paired by seed. Seconds are of the"
        " processor, in training."
    )
    lines = [
        [
            escape(method),
            escape(name),
            *(_ends(sides[kind][name]) for kind in ("palimpsest", "avalanche", "difference")),
        ]
        for method, sides in peer["methods"].items()
        for name in sides["difference"]
    ]
    return [text, table(["", "", "Palimpsest", "Avalanche", "Difference"], lines)]


def _ends(values: Sequence[float]) -> str:
    return _interval(Interval(*values))


def _direction(report: Report, role: str, audit: str) -> str:
    score = next(s for s in report.scores if (s.role, s.audit) == (role, audit))
    wanted = score.better.replace("nearer:", "nearer ")
    return escape(", ".join(filter(None, (f"{wanted} is better", f"{score.n} items", score.unit))))


def _costs(runs: Sequence[Run]) -> str:
    lines = [
        [
            escape(run.label or run.name),
            "" if run.seconds is None else number(run.seconds, 0),
            "" if run.steps is None else number(run.steps, 0),
            "" if run.tokens is None else number(run.tokens, 0),
            "" if run.trainable_parameters is None else number(run.trainable_parameters, 0),
        ]
        for run in runs
    ]
    return table(["", "Training seconds", "Steps", "Tokens", "Trainable parameters"], lines)


def _doubt(commit: str) -> str:
    """A sentence where the code that made the figures is not one commit."""
    if "unknown" in commit:
        return "The run does not say which commit it was made with."
    if "-dirty" in commit:
        return "The run was made with changes that no commit holds; commit them and run it again."
    return "The run went on with other code than it began with." if "," in commit else ""


def keep(file: Path) -> Path:
    """Keeps a run's report without its items; returns where."""
    report = Report.load(file)
    commit = report.environment.get("commit", f"unknown (kept at {commit_of(ROOT / 'src' / 'palimpsest')})")
    if doubt := _doubt(commit):
        print(doubt, file=sys.stderr)
    kept = dataclasses.replace(report, items=(), environment={**report.environment, "commit": commit})
    target = STUDIES / f"{file.resolve().parent.name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    kept.save(target)
    return target


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Name the report that is to be kept: python docs/study_pages.py runs/tofu/report.json")
    print(f"Kept: {keep(Path(sys.argv[1]))}")
