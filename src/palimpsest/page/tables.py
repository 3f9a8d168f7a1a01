"""The page's tables: captions, scopes, and a frame that scrolls on a narrow screen, by keyboard too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from palimpsest.page import charts
from palimpsest.page.text import amount, count, digits_of, duration, escape, memory, p_value, span
from palimpsest.report import Change, Curve, Matrix, Report, Run, Score, StageFigure, Versus

__all__ = [
    "cost_table",
    "curve_table",
    "difference_table",
    "figure_name",
    "figure_table",
    "heat_table",
    "label_of",
    "points_table",
    "stage_table",
    "variant_table",
]

Key = tuple[str, str]

FIELD_NAMES = {
    "overall_performance": "ACC, MFN",
    "average_performance": "MAA",
    "performance_when_taught": "MFT",
    "backward_transfer": "BWT",
    "forward_transfer": "FWT",
    "forward_transfer_from_start": "FWT",
    "forgetting_max": "F",
    "forgotten_per_gained": "FUAR",
    "held_out_change": "X-Delta",
    "worst_of_earlier": "min-ACC",
    "worst_case_performance": "WC-ACC",
    "windowed_forgetting_10": "WF",
    "windowed_forgetting_100": "WF",
    "windowed_plasticity_10": "WP",
    "windowed_plasticity_100": "WP",
}
"""Figure of a stage matrix -> the letters by which papers know it."""


def label_of(report: Report, name: str) -> str:
    """What a run is called on the page."""
    return next((run.label or run.name for run in report.runs if run.name == name), name)


def figure_name(report: Report, role: str, audit: str) -> str:
    """A role and an audit as HTML, with the unit where there is one."""
    unit = report.unit_of(role, audit)
    name = f'<span class="role">{escape(role)}</span> {escape(audit).replace("_", " ")}'
    return f'{name} <span class="unit">{escape(unit)}</span>' if unit else name


def _audit_name(report: Report, matrix: Matrix) -> str:
    """The audit of a matrix as HTML, with the unit where there is one."""
    units = (report.unit_of(role, matrix.audit) for role in matrix.roles)
    unit = next((f" ({escape(unit)})" for unit in units if unit), "")
    return escape(matrix.audit).replace("_", " ") + unit


def _table(caption: str, head: Iterable[str], rows: Iterable[str], name: str = "", body: str = "") -> str:
    """A table in its scrolling frame; ``caption``, ``head`` and ``rows`` are HTML."""
    kind, inner = (f' class="{name}"' if name else ""), (f' class="{body}"' if body else "")
    label = escape(caption.split(".")[0])
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}"><table{kind}><caption>{caption}</caption>'
        f"<thead><tr>{''.join(head)}</tr></thead><tbody{inner}>{''.join(rows)}</tbody></table></div>"
    )


def _head(*names: str) -> list[str]:
    """Column heads: the first for the rows' names, the others for figures."""
    return [f'<th scope="col"{" class=n" if i else ""}>{name}</th>' for i, name in enumerate(names)]


def _row(name: str, cells: Iterable[str], kind: str = "") -> str:
    return f'<tr{f" class={kind}" if kind else ""}><th scope="row">{name}</th>{"".join(cells)}</tr>'


def _plain(text: str) -> str:
    return f'<td class="n">{_whole(escape(text))}</td>'


def _whole(text: str) -> str:
    """A figure and its unit on one line: in a narrow column only the interval moves to the next."""
    return text.replace(" ", "\u00a0")


def points_table(report: Report, keys: Sequence[Key]) -> str:
    """Every run in every figure: the trade-off in words."""
    scores = {(s.run, s.role, s.audit): s for s in report.scores}
    rows = []
    for run in report.runs:
        cells = [_score_cell(scores.get((run.name, *key))) for key in keys]
        rows.append(_row(escape(run.label or run.name), cells))
    head = _head("Run", *[figure_name(report, *key) for key in keys])
    return _table("Every run in every figure, with 95 % intervals", head, rows)


def _score_cell(score: Score | None) -> str:
    if score is None:
        return _plain("–")
    digits = digits_of(score.value, score.low, score.high)
    return _cell(score.value, amount(score.value, digits), span(score.low, score.high, digits))


def _cell(value: float, shown: str, aside: str = "", title: str = "") -> str:
    sort = f' data-sort="{value:.12g}"' if math.isfinite(value) else ""
    tip = f' title="{escape(title)}"' if title else ""
    return f'<td class="n"{sort}{tip}>{_whole(escape(shown))} <span class="ci">{escape(aside)}</span></td>'


def curve_table(report: Report, labels: dict[str, str]) -> str:
    """First, lowest, highest and last value of every curve: the panels in words."""
    rows = []
    for curve in report.curves:
        values = [value for _, value in curve.points if math.isfinite(value)]
        if values:
            shown = (values[0], min(values), max(values), values[-1])
            rows.append(_row(_curve_name(curve, labels), [_plain(amount(v)) for v in shown]))
    return _table("Learning curves in figures", _head("Curve", "First", "Lowest", "Highest", "Last"), rows)


def _curve_name(curve: Curve, labels: dict[str, str]) -> str:
    return f'{escape(curve.name).replace("_", " ")} <span class="of">{escape(labels.get(curve.run, curve.run))}</span>'


def stage_table(report: Report, matrices: Sequence[Matrix]) -> str:
    """The figures of one audit's matrices, a run in each column."""
    columns = [(matrix.run, matrix.figures) for matrix in matrices]
    audit = _audit_name(report, matrices[0])
    return _stage_figures(report, columns, f"{audit} over the stages, with 95 % intervals")


def difference_table(report: Report, matrices: Sequence[Matrix]) -> str:
    """What the variants' figures are above those of the run after; empty without variants."""
    columns = [(matrix.run, matrix.differences) for matrix in matrices if matrix.differences]
    if not columns:
        return ""
    audit = _audit_name(report, matrices[0])
    return _stage_figures(
        report, columns, f"{audit} over the stages: variants minus the run after, paired, with 95 % intervals", True
    )


def _stage_figures(
    report: Report, columns: Sequence[tuple[str, Sequence[StageFigure]]], caption: str, signed: bool = False
) -> str:
    """A row for each figure, a column for each run."""
    found = [{f.name: f for f in figures} for _, figures in columns]
    rows = []
    for name in dict.fromkeys(name for own in found for name in own):
        rows.append(_row(_stage_figure_name(name), [_figure_cell(own.get(name), signed) for own in found]))
    return _table(caption, _head("Figure", *[escape(label_of(report, run)) for run, _ in columns]), rows)


def _stage_figure_name(name: str) -> str:
    """A figure as HTML, with its letters; behind its name may stand how often was measured."""
    letters = FIELD_NAMES.get(name.partition(" ")[0], "")
    return escape(name).replace("_", " ") + (f' <span class="of">{letters}</span>' if letters else "")


def _figure_cell(figure: StageFigure | None, signed: bool = False) -> str:
    if figure is None or not math.isfinite(figure.value):
        return _plain("–")
    digits = digits_of(figure.value, figure.low, figure.high)
    return _cell(figure.value, amount(figure.value, digits, signed=signed), span(figure.low, figure.high, digits))


def heat_table(report: Report, matrix: Matrix) -> str:
    """One audit over stages and roles; the shade of a cell repeats its figure."""
    values = [v for row in matrix.values for v in row if math.isfinite(v)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    at, digits = charts.scale((low, high), 0, 100), digits_of(*values)
    rows = []
    for stage, row in zip(matrix.stages, matrix.values):
        shares = [at(v) if math.isfinite(v) else 0 for v in row]
        cells = [f'<td class="n" style="--share:{s:.0f}%">{amount(v, digits)}</td>' for s, v in zip(shares, row)]
        rows.append(_row(escape(stage), cells))
    better = escape(matrix.better).replace(":", " ")
    run = escape(label_of(report, matrix.run))
    caption = f"{_audit_name(report, matrix)} after each stage of {run} ({better} is better)"
    return _table(caption, _head("After", *[escape(role) for role in matrix.roles]), rows, "heat")


def figure_table(report: Report) -> str:
    """All figures with paired intervals, in groups and sortable; empty where nothing was measured."""
    changes = {(c.run, c.role, c.audit): c for c in report.changes}
    afters = {run.name for run in report.runs if run.kind == "after"}
    versus = {(v.run, v.role, v.audit): v for v in report.versus if v.reference not in afters}
    reach: dict[Key, float] = {}
    for c in report.changes:
        ends = [abs(v) for v in (c.change, c.low, c.high) if math.isfinite(v)]
        reach[c.role, c.audit] = max([reach.get((c.role, c.audit), 0.0), *ends])
    rows, last = [], None
    for s in report.scores:
        key = (s.role, s.audit)
        run = escape(label_of(report, s.run))
        name = f'<span class="figure-of">{figure_name(report, *key)}</span> <span class="run">{run}</span>'
        cells = [_value_cell(s), *_change_cells(changes.get((s.run, *key)), reach.get(key, 0.0))]
        cells.append(_versus_cell(versus.get((s.run, *key))))
        rows.append(_row(name, cells, "" if key == last else "first"))
        last = key
    if not rows:
        return ""
    note = (
        "All figures. Brackets hold 95 % paired bootstrap intervals over items and seeds; g is Hedges’ paired effect "
        "size; p is adjusted for all rows by Holm’s method, and its test is named when you point at it."
    )
    head = [_sorting("", "Figure", "Run"), _sorting("n", "Value"), _sorting("n", "Change from before"), "<td></td>"]
    head += [_sorting("n", name) for name in ("g", "p", "Against retrained")]
    return _table(note, head, rows, "sortable", "grouped")


def variant_table(report: Report) -> str:
    """Every variant's figures minus those of the run after, a row for each figure; empty without variants."""
    afters = {run.name for run in report.runs if run.kind == "after"}
    found = [v for v in report.versus if v.reference in afters]
    runs = list(dict.fromkeys(v.run for v in found))
    by_key: dict[Key, dict[str, Versus]] = {}
    for v in found:
        by_key.setdefault((v.role, v.audit), {})[v.run] = v
    if not found:
        return ""
    rows = [
        _row(figure_name(report, *key), [_versus_cell(own.get(run)) for run in runs]) for key, own in by_key.items()
    ]
    head = _head("Figure", *[escape(label_of(report, run)) for run in runs])
    return _table("Variants minus the run after, paired, with 95 % intervals and p unadjusted", head, rows)


def _sorting(kind: str, *names: str) -> str:
    """The head of a column that is sorted by any of the parts that its cells have."""
    buttons = " ".join(f'<button type="button">{name}</button>' for name in names)
    return f'<th scope="col" class="{kind}" aria-sort="none">{buttons}</th>'


def _value_cell(s: Score) -> str:
    digits = digits_of(s.value, s.low, s.high)
    seeds = f"{len(s.per_seed)} seed{'s' if len(s.per_seed) != 1 else ''}"
    return _cell(s.value, amount(s.value, digits), span(s.low, s.high, digits), f"{s.n} items, {seeds}")


def _change_cells(change: Change | None, reach: float) -> list[str]:
    if change is None:
        return [_plain("–"), "<td></td>", _plain("–"), _plain("–")]
    digits = digits_of(change.change, change.low, change.high)
    return [
        _cell(change.change, amount(change.change, digits, signed=True), span(change.low, change.high, digits)),
        f'<td class="plot">{charts.change_bar(change.change, change.low, change.high, reach)}</td>',
        _cell(change.effect, amount(change.effect, 2, signed=True)),
        _cell(change.p_holm, p_value(change.p_holm), "", f"{change.test}; unadjusted p {p_value(change.p)}"),
    ]


def _versus_cell(versus: Versus | None) -> str:
    if versus is None:
        return _plain("–")
    if versus.kind == "ks":
        return _cell(versus.value, f"KS {amount(versus.value)}", f"p {p_value(versus.p)}")
    digits = digits_of(versus.value, versus.low, versus.high)
    unit = " %" if versus.kind == "relative" and math.isfinite(versus.value) else ""
    shown = amount(versus.value, digits, signed=True) + unit
    return _cell(versus.value, shown, span(versus.low, versus.high, digits), f"p {p_value(versus.p)}")


def cost_table(report: Report) -> str:
    """What every run took, its companions below it; empty where nothing is known."""
    if not any(run.seconds is not None or run.tokens or run.steps or run.peak_memory_bytes for run in report.runs):
        return ""
    rows = [row for run in report.runs for row in _cost_rows(run)]
    head = _head("Run", "Steps", "Tokens", "Time", "Peak memory", "Trainable parameters")
    return _table("What each run cost", head, rows)


def _cost_rows(run: Run) -> list[str]:
    shown = (count(run.steps), count(run.tokens), duration(run.seconds), memory(run.peak_memory_bytes))
    rows = [_row(escape(run.label or run.name), map(_plain, (*shown, count(run.trainable_parameters))))]
    for companion in run.companions:
        rest = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in companion.items() if k != "name")
        name = f"with {escape(companion.get('name', 'a companion'))}"
        rows.append(_row(name, [f'<td colspan="5">{escape(rest)}</td>'], "companion"))
    return rows
