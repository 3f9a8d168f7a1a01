"""Several finished runs in one report, paired item by item."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from palimpsest.audit import Scores
from palimpsest.measure import build_report
from palimpsest.report import Report, Run
from palimpsest.run import scores_from

__all__ = ["compare"]


def compare(folders: Sequence[Path]) -> Report:
    """The ``after`` model of each run folder against the first folder's ``before`` (and its ``retrained``, if any).

    Raises ``ValueError`` when a folder holds no finished run, and when two runs did not measure the same items.
    """
    if len(folders) < 2:
        raise ValueError("compare needs at least two run folders; name another one.")
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) != len(names):
        names = [str(folder) for folder in folders]
    first = _measured(folders[0])
    measured: dict[str, dict[int, list[Scores]]] = {"before": first["before"]}
    runs = [Run("before", "before", "before")]
    if "retrained" in first:
        measured["retrained"] = first["retrained"]
        runs.append(Run("retrained", "baseline", "retrained"))
    for name, folder in zip(names, folders, strict=True):
        found = _measured(folder)
        measured[name] = found["after"]
        report = Report.load(folder / "report.json")
        cost = next(r for r in report.runs if r.name == "after")
        runs.append(
            Run(
                name,
                "variant",
                f"{name}: {cost.label}",
                cost.seconds,
                cost.tokens,
                cost.steps,
                cost.peak_memory_bytes,
                cost.trainable_parameters,
            )
        )
    _same_items(measured)
    recipes = "\n".join(
        f"# {name}\n{(folder / 'recipe.yaml').read_text(encoding='utf-8')}" for name, folder in zip(names, folders)
    )
    environment = {
        name: json.dumps(Report.load(folder / "report.json").environment) for name, folder in zip(names, folders)
    }
    return build_report(" against ".join(names), measured, runs, recipe_text=recipes, environment=environment)


def _measured(folder: Path) -> dict[str, dict[int, list[Scores]]]:
    if not (folder / "report.json").exists():
        raise ValueError(f"{folder} holds no finished run; finish it with palimpsest run, or name another folder.")
    found: dict[str, dict[int, list[Scores]]] = {}
    for file in sorted(folder.glob("seed-*/*/scores.json")):
        seed = int(file.parent.parent.name.removeprefix("seed-"))
        entries = json.loads(file.read_text(encoding="utf-8"))
        found.setdefault(file.parent.name, {})[seed] = [scores_from(entry) for entry in entries]
    missing = [name for name in ("before", "after") if name not in found]
    if missing:
        raise ValueError(f"{folder} has no scores of the model {missing[0]}; run its recipe again.")
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
