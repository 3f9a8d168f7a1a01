"""Several finished runs in one report, paired item by item."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from palimpsest.audit import Scores
from palimpsest.measure import build_report
from palimpsest.report import Report, Run
from palimpsest.run_folder import asked_of, read_scores
from palimpsest.verdict import parse_expectation
from palimpsest.yaml_text import parse

__all__ = ["compare"]

_BySeed = Mapping[int, Sequence[Scores]]
_Key = tuple[str, str]


def compare(folders: Sequence[Path]) -> Report:
    """The ``after`` model of each run folder against its ``before`` (and its ``retrained``, if any), and of each
    further folder against that of the first.

    Folders whose models before gave the same values share one column; else each has its own, named ``FOLDER: before``.
    Figures that not all of them have are left out, with a warning.  What all their recipes expect alike is judged for
    each.  Raises ``ValueError`` when a folder holds no finished run, when the seeds differ, and when no figure is
    left.
    """
    names = _names(folders)
    whole = dict(zip(names, map(_measured, folders), strict=True))
    shared, warnings = _shared(whole)
    found = {name: {run: _only(shared, by_seed) for run, by_seed in own.items()} for name, own in whole.items()}
    reports = [Report.load(folder / "report.json") for folder in folders]
    measured, runs, told = _arranged(found, reports)
    goals = measured.keys() | {"retrained" for run in runs if run.retrained in measured}
    recipes = [f"# {name}\n{report.recipe}" for name, report in zip(names, reports, strict=True)]
    return build_report(
        " against ".join(names),
        measured,
        runs,
        expect=_expected_alike(reports, goals, shared),
        recipe_text="\n".join(recipes),
        environment={name: json.dumps(report.environment) for name, report in zip(names, reports, strict=True)},
        rows={(item.role, item.id): {"prompt": item.prompt, "completion": item.target} for item in reports[0].items},
        warnings=(*warnings, *told),
    )


def _arranged(
    found: Mapping[str, Mapping[str, _BySeed]], reports: Sequence[Report]
) -> tuple[dict[str, _BySeed], list[Run], list[str]]:
    """What was measured by the name of its column, the columns, and a warning for each run that started otherwise."""
    measured: dict[str, _BySeed] = {}
    starts: dict[str, list[str]] = {}  # of each model before, the retrained ones that started from it
    runs, warnings = [], []
    for name, own in found.items():
        before = next((b for b in starts if _alike(measured[b], own["before"])), "")
        if not before:
            before = f"{name}: before" if starts else "before"
            measured[before], starts[before] = own["before"], []
            runs.append(Run(before, "before", before, before=before))
        if "retrained" in own and not any(_alike(measured[r], own["retrained"]) for r in starts[before]):
            bare = before == "before" and not starts[before]
            goal = "retrained" if bare else f"{name}: retrained"
            measured[goal] = own["retrained"]
            starts[before].append(goal)
            runs.append(Run(goal, "baseline", goal, before=before, retrained=goal))
        measured[name] = own["after"]
    first = next(iter(found))
    for (name, own), report in zip(found.items(), reports, strict=True):
        before = next(b for b in starts if _alike(measured[b], own["before"]))
        same = [r for r in starts[before] if "retrained" not in own or _alike(measured[r], own["retrained"])]
        if before != "before":
            warnings.append(f"{name} did not start as {first} did, so it is held against its own model before.")
        if not same and any(starts.values()):
            warnings.append(f"No retrained model started as {name} did, so it is held against none.")
        cost = next(r for r in report.runs if r.name == "after")
        goal = same[0] if same else ""
        label = f"{name}: {cost.label}"
        runs.append(dataclasses.replace(cost, name=name, label=label, companions=(), before=before, retrained=goal))
    return measured, runs, warnings


def _alike(one: _BySeed, other: _BySeed) -> bool:
    """Whether two models gave the same values, but for what other hardware rounds otherwise."""
    for seed, scores in one.items():
        theirs = {(s.role, s.name): dict(zip(s.ids, s.items.tolist(), strict=True)) for s in other[seed]}
        for own in scores:
            values = theirs[own.role, own.name]
            pairs = ((value, values[key]) for key, value in zip(own.ids, own.items.tolist(), strict=True))
            if not all(math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) for a, b in pairs):
                return False
    return True


def _expected_alike(reports: Sequence[Report], goals: Collection[str], shared: Collection[_Key]) -> dict[str, Any]:
    """What all recipes expect in the same words, of figures and runs that are compared here."""
    first, *others = [(parse(report.recipe) or {}).get("expect", {}) for report in reports]
    alike = {place: wanted for place, wanted in first.items() if all(o.get(place) == wanted for o in others)}
    alike = {place: wanted for place, wanted in alike.items() if (*place.partition("/")[::2],) in shared}
    named = {place: parse_expectation(wanted, place).reference for place, wanted in alike.items()}
    return {place: wanted for place, wanted in alike.items() if not named[place] or named[place] in goals}


def _names(folders: Sequence[Path]) -> list[str]:
    """A name for each folder's run: the folder's own, or its path where two would be called the same."""
    if len(folders) < 2:
        raise ValueError("compare needs at least two run folders; name another one.")
    whole = [str(folder.resolve()) for folder in folders]
    twice = [str(f) for f, w in zip(folders, whole) if whole.count(w) > 1]
    if twice:
        raise ValueError(f"{twice[0]} is named twice; compare different run folders.")
    names = [folder.resolve().name for folder in folders]
    taken = len(set(names)) != len(names) or {"before", "retrained"} & set(names)
    return whole if taken else names


def _measured(folder: Path) -> dict[str, dict[int, list[Scores]]]:
    """Run -> seed -> scores, of a finished run; of the audits in its report, not of those that it had before."""
    if not (folder / "report.json").exists():
        raise ValueError(f"{folder} holds no finished run; finish it with palimpsest run, or name another folder.")
    asked = asked_of((parse(Report.load(folder / "report.json").recipe) or {}).get("audits", {}))
    found: dict[str, dict[int, list[Scores]]] = {}
    for file in sorted(folder.glob("seed-*/*/scores.jsonl")):
        seed = int(file.parent.parent.name.removeprefix("seed-"))
        found.setdefault(file.parent.name, {})[seed] = read_scores(file, asked=asked)
    if "after" not in found or "before" not in found:
        raise ValueError(
            f"{folder} has no model before and after a last stage; compare folders that palimpsest run made."
        )
    return found


def _shared(found: Mapping[str, Mapping[str, _BySeed]]) -> tuple[list[_Key], list[str]]:
    """The figures that all folders measured on the same items, and a warning for each other one.

    Refuses, before any statistics, folders of other seeds, and those that share no figure.
    """
    (first, base), *_ = found.items()
    seeds = sorted(base["after"])
    for name, own in found.items():
        if sorted(own["after"]) != seeds:
            raise ValueError(
                f"{first} ran the seeds {seeds} and {name} {sorted(own['after'])}; compare runs of the same seeds."
            )
    ids = {name: _ids(own) for name, own in found.items()}
    shared, why = [], {}
    for key in dict.fromkeys(key for own in ids.values() for key in own):
        place = "/".join(key)
        has = [name for name in ids if key in ids[name]]
        lacks = next((name for name in ids if name not in has), None)
        other = next((name for name in has if ids[name][key] != ids[has[0]][key]), None)
        if lacks is not None:
            why[place] = f"was measured in only one of {has[0]} and {lacks}"
        elif other is not None:
            odd = min(ids[has[0]][key] ^ ids[other][key])[1]
            why[place] = f"the item {odd!r} stands in only one of {has[0]} and {other}"
        else:
            shared.append(key)
    if not shared:
        place, reason = next(iter(why.items()))
        lead = place if reason.startswith("was") else f"{place}:"
        raise ValueError(
            f"{lead} {reason}, and no other figure is shared, so the runs cannot be paired; compare runs that measured"
            " the same rows with the same audits."
        )
    return shared, [f"{place} is left out: {reason.removeprefix('was ')}." for place, reason in why.items()]


def _ids(own: Mapping[str, _BySeed]) -> dict[_Key, set[tuple[int, str]]]:
    """Of each figure that every model of a folder has in every seed: (seed, item) of all its items."""
    models = [own[run] for run in ("before", "after", "retrained") if run in own]
    found: dict[_Key, list[set[tuple[int, str]]]] = {}
    for model in models:
        of_model: dict[_Key, list[set[tuple[int, str]]]] = {}
        for seed, scores in model.items():
            for s in scores:
                of_model.setdefault((s.role, s.name), []).append({(seed, name) for name in s.ids})
        for key, by_seed in of_model.items():
            if len(by_seed) == len(model):
                found.setdefault(key, []).append(set().union(*by_seed))
    return {key: sets[0] for key, sets in found.items() if len(sets) == len(models)}


def _only(shared: Collection[_Key], by_seed: _BySeed) -> _BySeed:
    """The shared figures, without the others."""
    return {seed: [s for s in scores if (s.role, s.name) in shared] for seed, scores in by_seed.items()}
