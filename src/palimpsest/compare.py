"""Several finished runs in one report, paired item by item."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from palimpsest.audit import Scores
from palimpsest.measure import build_report
from palimpsest.report import Report, Run
from palimpsest.run_folder import read_scores

__all__ = ["compare"]


def compare(folders: Sequence[Path]) -> Report:
    """The ``after`` model of each run folder against the first folder's ``before`` (and its ``retrained``, if any).

    Raises ``ValueError`` when a folder holds no finished run, and when two runs did not measure the same items.
    """
    names = _names(folders)
    first = _measured(folders[0])
    measured: dict[str, dict[int, list[Scores]]] = {"before": first["before"]}
    runs = [Run("before", "before", "before")]
    if "retrained" in first:
        measured["retrained"] = first["retrained"]
        runs.append(Run("retrained", "baseline", "retrained"))
    recipes, environment = [], {}
    for name, folder in zip(names, folders, strict=True):
        measured[name] = first["after"] if folder == folders[0] else _measured(folder)["after"]
        report = Report.load(folder / "report.json")
        cost = next(r for r in report.runs if r.name == "after")
        runs.append(dataclasses.replace(cost, name=name, kind="variant", label=f"{name}: {cost.label}", companions=()))
        recipes.append(f"# {name}\n{report.recipe}")
        environment[name] = json.dumps(report.environment)
    _same_items(measured)
    recipe_text = "\n".join(recipes)
    return build_report(" against ".join(names), measured, runs, recipe_text=recipe_text, environment=environment)


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
    """Run -> seed -> scores, of a finished run."""
    if not (folder / "report.json").exists():
        raise ValueError(f"{folder} holds no finished run; finish it with palimpsest run, or name another folder.")
    found: dict[str, dict[int, list[Scores]]] = {}
    for file in sorted(folder.glob("seed-*/*/scores.jsonl")):
        seed = int(file.parent.parent.name.removeprefix("seed-"))
        found.setdefault(file.parent.name, {})[seed] = read_scores(file)
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
