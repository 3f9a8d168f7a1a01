"""From the values of every item to a report: figures, changes, comparisons, verdicts, and what changed most."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import torch

from palimpsest import statistics
from palimpsest.audit import Row, Scores
from palimpsest.report import Change, Curve, Item, Matrix, Report, Run, Score, Versus
from palimpsest.verdict import Verdict, judge, parse_expectation

__all__ = ["Measurements", "build_report"]

Measurements = Mapping[str, Mapping[int, Sequence[Scores]]]
"""Run name -> seed -> what was measured; every ``Scores`` names its role and its audit."""

_Key = tuple[str, str]
_Table = dict[_Key, dict[str, list[Scores]]]
"""(role, audit) -> run -> one ``Scores`` per seed."""

_Expect = Mapping[str, str | Mapping[str, str | float]]
"""``role/audit`` -> an expectation as a recipe writes it."""

BEFORE, AFTER, RETRAINED = "before", "after", "retrained"
ITEMS = 10


def build_report(
    name: str,
    measurements: Measurements,
    runs: Sequence[Run],
    curves: Sequence[Curve] = (),
    expect: _Expect | None = None,
    recipe_text: str = "",
    environment: Mapping[str, object] | None = None,
    rows: Mapping[tuple[str, str], Row] | None = None,
    *,
    warnings: Sequence[str] = (),
    matrices: Sequence[Matrix] = (),
    created: str | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Report:
    """The report of one recipe.

    Runs are held against the run ``before`` and, where there is one, against ``retrained``, or against those that
    their ``Run`` names; variants, and further runs of kind ``after``, against the first of that kind too.
    Verdicts are about the runs of kind ``after``.  ``expect`` maps ``role/audit`` to an expectation (see ``verdict``),
    ``rows`` (role, id) to the row an item is shown with.  Raises ``ValueError`` when runs measured different items, or
    when an expectation cannot be read.
    """
    table, missing = _table(measurements, runs)
    changes, versus = _comparisons(table, runs, resamples, seed)
    return Report(
        name=name,
        created=created or datetime.now(UTC).isoformat(timespec="seconds"),
        verdicts=_verdicts(table, runs, expect or {}, resamples, seed),
        runs=tuple(runs),
        scores=_scores(table, expect or {}, resamples, seed),
        changes=changes,
        versus=versus,
        curves=tuple(curves),
        matrices=tuple(matrices),
        items=tuple(item for key, by_run in table.items() for item in _items(key, by_run, runs, rows or {})),
        recipe=recipe_text,
        environment=dict(environment or {}),
        warnings=(*warnings, *missing),
        seeds=tuple(sorted({seed for by_seed in measurements.values() for seed in by_seed})),
    )


def _comparisons(
    table: _Table, runs: Sequence[Run], resamples: int, seed: int
) -> tuple[tuple[Change, ...], tuple[Versus, ...]]:
    """Every run against its ``before``, with p adjusted over all of them, and its ``retrained``; variants and further
    runs of kind ``after`` against the first one."""
    first = next((run.name for run in runs if run.kind == "after"), AFTER)
    rivals = {run.name for run in runs if run.kind in ("after", "variant")} - {first}
    about = {run.name: run for run in runs}
    starts, goals = {r.before for r in runs} | {BEFORE}, {r.retrained for r in runs} | {RETRAINED}
    changes, versus = [], []
    for key, by_run in table.items():
        for run, after in by_run.items():
            before, goal = about[run].before, about[run].retrained
            if run not in starts and before in by_run:
                changes.append(_change(run, key, by_run[before], after, resamples, seed))
            if run not in starts | goals and goal in by_run:
                versus.append(_versus(run, key, goal, after, by_run[goal], resamples, seed))
            if run in rivals and first in by_run:
                versus.append(_against(run, key, first, after, by_run[first], resamples, seed))
    adjusted = statistics.holm([change.p for change in changes])
    return tuple(dataclasses.replace(c, p_holm=p) for c, p in zip(changes, adjusted)), tuple(versus)


def _table(measurements: Measurements, runs: Sequence[Run]) -> tuple[_Table, list[str]]:
    """Measurements by figure, and a warning for each run that lacks a figure in some of its seeds."""
    unlisted = sorted(set(measurements) - {run.name for run in runs})
    if unlisted:
        raise ValueError(f"The run {unlisted[0]!r} was measured but is not among the runs; describe it with a Run.")
    table: _Table = {}
    warnings = []
    for run, by_seed in measurements.items():
        for seed in sorted(by_seed):
            for scores in by_seed[seed]:
                table.setdefault((scores.role, scores.name), {}).setdefault(run, []).append(scores)
    for (role, audit), by_run in table.items():
        for run, found in by_run.items():
            if len(found) != len(measurements[run]):
                seeds = f"{len(found)} of {len(measurements[run])} seeds"
                warnings.append(f"{role} / {audit} of the run {run} was measured in {seeds} only.")
    return table, warnings


def _scores(table: _Table, expect: _Expect, resamples: int, seed: int) -> tuple[Score, ...]:
    """Every figure of every run."""
    found = []
    for key, by_run in table.items():
        for run, scores in by_run.items():
            better = _better(f"{key[0]}/{key[1]}", expect, scores[0].better)
            found.append(_score(run, key, scores, better, resamples, seed))
    return tuple(found)


def _better(place: str, expect: _Expect, own: str) -> str:
    """Which way is better: as expected, where the expectation names a direction, else as the audit says.

    A bound on one side names one, and so does a margin that demands a change; a margin of what is kept does not.
    """
    if place not in expect:
        return own
    wanted = parse_expectation(expect[place], f"expect.{place}")
    if wanted.kind == "nearer":
        return f"nearer:{wanted.reference}"
    if wanted.kind in ("higher", "lower"):
        return wanted.kind
    if wanted.kind == "change" and wanted.allows(0):
        return own
    return "higher" if math.isinf(wanted.high) else "lower"


def _score(run: str, key: _Key, scores: Sequence[Scores], better: str, resamples: int, seed: int) -> Score:
    interval = statistics.bootstrap_over_seeds(scores, resamples=resamples, seed=seed)
    first = scores[0]
    per_seed = tuple(statistics.aggregate(s.items, s.statistic, s.groups) for s in scores)
    return Score(
        run,
        *key,
        interval.value,
        interval.low,
        interval.high,
        len(first.ids),
        first.statistic,
        better,
        first.unit,
        per_seed,
    )


def _change(
    run: str, key: _Key, before: Sequence[Scores], after: Sequence[Scores], resamples: int, seed: int
) -> Change:
    interval = statistics.paired_bootstrap_over_seeds(before, after, resamples=resamples, seed=seed)
    test, p = _test(before, after, resamples, seed)
    effect = math.nan
    if before[0].statistic == "mean":
        first, second = _over_seeds(before), _over_seeds(after)
        if first is not None and second is not None:
            effect = statistics.hedges_g(first, second)
    return Change(run, *key, interval.value, interval.low, interval.high, test, p, math.nan, effect)


def _test(before: Sequence[Scores], after: Sequence[Scores], resamples: int, seed: int) -> tuple[str, float]:
    """The name of the test that fits, and its p: seeds and AUCs are resampled, single runs are permuted.

    There is none where a single item gives no interval either.
    """
    if statistics.lone([before, after]):
        return "none", math.nan
    if len(before) == len(after) == 1 and before[0].statistic == "mean":
        if statistics.is_binary(before[0]) and statistics.is_binary(after[0]):
            return "McNemar, exact", statistics.mcnemar(before[0], after[0]).p
        return "paired permutation", statistics.paired_permutation(before[0], after[0], resamples=resamples, seed=seed)
    return "paired bootstrap", statistics.bootstrap_p(before, after, resamples=resamples, seed=seed)


def _over_seeds(scores: Sequence[Scores]) -> Scores | None:
    """Each item's mean over the seeds; None where the seeds measured different items."""
    first = scores[0]
    if len(scores) == 1:
        return first
    if any(set(s.ids) != set(first.ids) for s in scores):
        return None
    values = []
    for s in scores:
        where = {name: i for i, name in enumerate(s.ids)}
        values.append(s.items.double().cpu()[[where[name] for name in first.ids]])
    return dataclasses.replace(first, items=torch.stack(values).mean(0))


def _versus(
    run: str, key: _Key, name: str, after: Sequence[Scores], reference: Sequence[Scores], resamples: int, seed: int
) -> Versus:
    """Scores against those of the run ``name``, as their audit wants them to be."""
    kind = after[0].versus
    if kind == "ks":
        tests = [statistics.ks_two_sample(a.items, reference[i % len(reference)].items) for i, a in enumerate(after)]
        # Several seeds measure the same items, so pooling them would count the items more than once.
        figure = sum(t.statistic for t in tests) / len(tests)
        p = sorted(t.p for t in tests)[(len(tests) - 1) // 2]
        return Versus(run, *key, name, kind, figure, math.nan, math.nan, p)
    if kind == "difference":
        return _against(run, key, name, after, reference, resamples, seed)
    interval = statistics.relative_difference(after, reference, resamples=resamples, seed=seed)
    p = _test(reference, after, resamples, seed)[1] if math.isfinite(interval.value) else math.nan
    return Versus(run, *key, name, kind, interval.value, interval.low, interval.high, p)


def _against(
    run: str,
    key: _Key,
    name: str,
    scores: Sequence[Scores],
    reference: Sequence[Scores],
    resamples: int,
    seed: int,
) -> Versus:
    """The paired difference of ``scores`` to those of the run ``name``, whatever a forget audit wants of it."""
    interval = statistics.paired_bootstrap_over_seeds(reference, scores, resamples=resamples, seed=seed)
    p = _test(reference, scores, resamples, seed)[1]
    return Versus(run, *key, name, "difference", interval.value, interval.low, interval.high, p)


def _verdicts(
    table: _Table,
    runs: Sequence[Run],
    expect: _Expect,
    resamples: int,
    seed: int,
) -> tuple[Verdict, ...]:
    verdicts = []
    for name, spec in expect.items():
        expectation = parse_expectation(spec, f"expect.{name}")
        role, _, audit = name.partition("/")
        by_run = table.get((role, audit), {})
        for about in (r for r in runs if r.kind == "after"):
            run = about.name
            if about.before not in by_run or run not in by_run:
                absent = "before and after" if not by_run else BEFORE if about.before not in by_run else run
                why = f"{role} / {audit} was not measured {absent}; name the audit under audits to have it judged."
                verdicts.append(Verdict(run, role, audit, expectation.text, "not shown", why))
                continue
            goal = about.retrained if expectation.reference == RETRAINED else expectation.reference
            reference, before, after = by_run.get(goal), by_run[about.before], by_run[run]
            verdicts.append(
                judge(run, role, audit, expectation, before, after, reference, resamples=resamples, seed=seed)
            )
    return tuple(verdicts)


def _items(
    key: _Key, by_run: Mapping[str, Sequence[Scores]], runs: Sequence[Run], rows: Mapping[tuple[str, str], Row]
) -> list[Item]:
    """The ten items with outputs that changed most between ``before`` and the first run of kind ``after``."""
    after = next((r.name for r in runs if r.kind == "after" and r.name in by_run), None)
    if after is None or BEFORE not in by_run or by_run[after][0].outputs is None:
        return []
    values = {run: _values(scores) for run, scores in by_run.items()}
    texts = {run: dict(zip(s[0].ids, s[0].outputs)) for run, s in by_run.items() if s[0].outputs is not None}
    changes = {name: values[after][name] - values[BEFORE][name] for name in by_run[after][0].ids}
    most = sorted(changes, key=lambda name: (-abs(changes[name]), name))[:ITEMS]
    items = []
    for name in most:
        prompt, target = _prompt_and_target(rows.get((key[0], name), {}))
        outputs = {run: text[name] for run, text in texts.items() if name in text}
        figures = {run: of_run[name] for run, of_run in values.items() if name in of_run}
        items.append(Item(*key, name, prompt, target, outputs, figures, changes[name]))
    return items


def _values(scores: Sequence[Scores]) -> dict[str, float]:
    """Each item's value, averaged over the seeds that measured it."""
    found: dict[str, list[float]] = {}
    for s in scores:
        for name, value in zip(s.ids, s.items.tolist()):
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def _prompt_and_target(row: Row) -> tuple[str, str]:
    """What an item was asked and what it should answer, from any of the row forms."""
    messages = row.get("messages")
    if messages:
        *context, last = messages
        return "\n".join(f"{m['role']}: {m['content']}" for m in context), str(last["content"])
    prompt = row.get("prompt", row.get("text", ""))
    target = row.get("completion", row.get("label", ""))
    return str(prompt), str(target)
