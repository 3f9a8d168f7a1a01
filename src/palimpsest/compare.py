"""Several finished runs in one report, paired item by item."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from palimpsest.audit import Scores
from palimpsest.measure import build_report
from palimpsest.report import Report, Run
from palimpsest.run_folder import asked_of, read_scores
from palimpsest.verdict import parse_expectation
from palimpsest.yaml_text import parse

__all__ = ["compare"]


def compare(folders: Sequence[Path]) -> Report:
    """The ``after`` model of each run folder against the first folder's ``before`` (and its ``retrained``, if any), and
    of each further folder against that of the first.

    What all their recipes expect alike is judged for each.  Raises ``ValueError`` when a folder holds no finished run,
    and when two runs did not measure the same items.
    """
    names = _names(folders)
    found = [_measured(folder) for folder in folders]
    first = found[0]
    measured: dict[str, dict[int, list[Scores]]] = {"before": first["before"]}
    runs = [Run("before", "before", "before")]
    if "retrained" in first:
        measured["retrained"] = first["retrained"]
        runs.append(Run("retrained", "baseline", "retrained"))
    recipes, environment, reports = [], {}, [Report.load(folder / "report.json") for folder in folders]
    for name, own, report in zip(names, found, reports, strict=True):
        measured[name] = own["after"]
        cost = next(r for r in report.runs if r.name == "after")
        runs.append(dataclasses.replace(cost, name=name, label=f"{name}: {cost.label}", companions=()))
        recipes.append(f"# {name}\n{report.recipe}")
        environment[name] = json.dumps(report.environment)
    _same_items(measured)
    return build_report(
        " against ".join(names),
        measured,
        runs,
        expect=_expected_alike(reports, measured.keys()),
        recipe_text="\n".join(recipes),
        environment=environment,
        rows={(item.role, item.id): {"prompt": item.prompt, "completion": item.target} for item in reports[0].items},
    )


def _expected_alike(reports: Sequence[Report], measured: Collection[str]) -> dict[str, Any]:
    """What all recipes expect in the same words, of runs that are compared here."""
    first, *others = [(parse(report.recipe) or {}).get("expect", {}) for report in reports]
    alike = {place: wanted for place, wanted in first.items() if all(o.get(place) == wanted for o in others)}
    named = {place: parse_expectation(wanted, place).reference for place, wanted in alike.items()}
    return {place: wanted for place, wanted in alike.items() if not named[place] or named[place] in measured}


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
    """Run -> seed -> scores, of a finished run; of what is in its report, not of what the folder held before."""
    if not (folder / "report.json").exists():
        raise ValueError(f"{folder} holds no finished run; finish it with palimpsest run, or name another folder.")
    report = Report.load(folder / "report.json")
    recipe = parse(report.recipe) or {}
    asked = asked_of(recipe.get("audits", {}))
    found: dict[str, dict[int, list[Scores]]] = {}
    for name, seed in itertools.product([run.name for run in report.runs], sorted(recipe.get("seeds", []))):
        file = folder / f"seed-{seed}" / name / "scores.jsonl"
        if file.exists():
            found.setdefault(name, {})[seed] = read_scores(file, asked=asked)
    if "after" not in found or "before" not in found:
        raise ValueError(
            f"{folder} has no model before and after a last stage; compare folders that palimpsest run made."
        )
    return found


def _same_items(measured: dict[str, dict[int, list[Scores]]]) -> None:
    """Refuses, before any statistics, runs whose audits, seeds or ids differ."""
    base_name, base = next(iter(measured.items()))
    for name, by_seed in measured.items():
        if set(by_seed) != set(base):
            raise ValueError(
                f"{name} ran the seeds {sorted(by_seed)} and {base_name} {sorted(base)}; compare runs of the same"
                " seeds."
            )
        for seed, scores in by_seed.items():
            own = {(s.role, s.name): set(s.ids) for s in scores}
            other = {(s.role, s.name): set(s.ids) for s in base[seed]}
            for key in own.keys() ^ other.keys():
                raise ValueError(
                    f"{'/'.join(key)} was measured in only one of {name} and {base_name}; compare runs with the same"
                    " audits."
                )
            for key, ids in own.items():
                for odd in sorted(ids ^ other[key])[:1]:
                    raise ValueError(
                        f"{'/'.join(key)}: the item {odd!r} stands in only one of {name} and {base_name}; the runs"
                        " cannot be paired."
                    )
