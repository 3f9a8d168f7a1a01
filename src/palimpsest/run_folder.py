"""What a run folder says of itself: whose recipe and data it holds, and the scores of each model."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from palimpsest.audit import UNBOUNDED, Scores
from palimpsest.checkpoint import append_line, write_json, write_text
from palimpsest.data import row_digest
from palimpsest.own_code import code_digests
from palimpsest.plans import Plan, made_by
from palimpsest.recipe import Recipe, RecipeError, Spec, plain, short, to_yaml, validated
from palimpsest.report import Report
from palimpsest.role_data import audit_names
from palimpsest.yaml_text import dump, parse

__all__ = [
    "BASE",
    "Asked",
    "add_scores",
    "asked_of",
    "claim",
    "claim_code",
    "claim_data",
    "code_of",
    "commits_of",
    "finished",
    "keep",
    "made_here",
    "measured_in",
    "read_scores",
    "started",
]

BASE, CODE, DATA, MADE, RECIPE = "base.json", "code.json", "data.json", "stages.yaml", "recipe.yaml"
JUDGE = ("name", "title", "expect", "chance")
"""Keys of a recipe that decide what a report says and where it lies, and nothing of what is trained or measured."""
LATER = ("audits",)
"""Keys that decide what is measured of finished models, and nothing of what is trained."""
MODELS = ("seeds", "variants", "baselines")
"""Keys that decide which models there are; ``stages.yaml`` knows what made each."""
Asked = Mapping[tuple[str, str], str]
"""(role, audit) -> a digest of the audit's specification, by which its lines among the scores are known.

That of an audit of the user's own has a second one behind ``+``, of its code; scores of other code are measured anew.
"""
OWN = "code of "
"""What begins the keys of data.json that are no roles, but code of the user's own."""
RENAME = "or, where only audits read these rows, give the new ones a role of another name"
_MISSING = object()
"""In place of a key that is not there: ``clip: null`` trains otherwise than no ``clip``, which means its default."""


def claim(out: Path, recipe: Recipe, own: Sequence[Plan]) -> list[str]:
    """Makes the folder this recipe's, or refuses one that is somebody else's; returns which of these keys differ.

    A folder in which another recipe has finished nothing (it had a mistake, say) is taken over.  A recipe that differs
    in its title, in what it expects, in its audits, seeds, variants or baselines, or by roles that came or went with
    them, is one of the same run: ``run`` makes and asks what is not there yet and makes the report anew.  ``keep`` then
    writes that recipe.  ``own`` are its plans; one that a folder knows by other stages is refused.
    """
    text, kept = to_yaml(recipe), out / RECIPE
    if out.exists() and not out.is_dir():
        raise RecipeError(f"{out} is a file; choose another folder with --out.")
    if kept.exists() and (started(out) or kept.read_text(encoding="utf-8") == text):
        other = _other(kept, recipe, out)
        _refuse_made_otherwise(out, own)
        for left in list(out.rglob(".*.tmp")):  # of a process that was killed while it wrote
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        return other
    if kept.exists():
        for name in (BASE, CODE, DATA, MADE):
            (out / name).unlink(missing_ok=True)
    elif out.is_dir() and any(not p.name.endswith(".tmp") for p in out.iterdir()):
        raise RecipeError(f"{out} is not empty and holds no run; choose another folder with --out.")
    try:
        write_text(kept, text)
    except OSError as error:
        why = f"{out} could not be written ({error.strerror}); choose another folder with --out."
        raise RecipeError(why if error.strerror else str(error)) from None
    return []


def _other(kept: Path, recipe: Recipe, out: Path) -> list[str]:
    """Which of ``LATER`` and ``MODELS`` a kept recipe has otherwise; refuses one that differs in more."""
    if kept.read_text(encoding="utf-8") == to_yaml(recipe):
        return []
    there, here = _read(kept), parse(to_yaml(recipe))
    # Where nothing says what made the models, a variant may be another than the one whose name it has.
    later = (*LATER, *MODELS) if (out / MADE).exists() else (*LATER, "seeds")
    found = " that cannot be read" if there is None else _difference(there, here, later)
    if there is None or found:
        rest = f"delete it, {RENAME}" if found.startswith(" (roles.") else "or delete it"
        raise RecipeError(f"{out} holds a run of another recipe{found}; choose another folder with --out, {rest}.")
    return [key for key in later if there.get(key) != here.get(key)]


def _refuse_made_otherwise(out: Path, own: Sequence[Plan]) -> None:
    """Refuses a plan of which the folder holds something that other stages made."""
    kept, here = _made_there(out), _plain(own)
    for plan in own:
        both = [made[plan.name] for made in (kept, here) if plan.name in made]
        trees = [{**made, "stages": {}, **dict(enumerate(made["stages"]))} for made in both]
        if both[0] != both[-1] and any(
            p.is_file() for seed in out.glob("seed-*") for p in (seed / plan.name).rglob("*")
        ):
            where = _told_parting((f"{plan.kind}s", plan.name), *trees)
            named = " give it another name," if plan.kind == "variant" else ""
            raise RecipeError(
                f"{out} holds a run of another recipe{where}; choose another folder with --out,{named} or delete"
                f" seed-*/{plan.name} there."
            )


def made_here(out: Path, own: Sequence[Plan]) -> dict[str, Any]:
    """``made_by`` of all plans that the folder has ever had, in the order in which they came, then of new ones."""
    here = _plain(own)
    return {name: made for name, made in _made_there(out).items() if here.get(name, made) == made} | here


def _plain(own: Sequence[Plan]) -> dict[str, Any]:
    """``made_by`` as it is when it is read back."""
    try:
        return dict(parse(dump(made_by(own))))
    except ValueError as error:  # of a baseline outside Palimpsest
        raise RecipeError(f"baselines: {error}.") from None


def _made_there(out: Path) -> dict[str, Any]:
    file = out / MADE
    return dict(parse(file.read_text(encoding="utf-8"))) if file.exists() else {}


def _read(kept: Path) -> dict[str, Any] | None:
    """A kept recipe as plain data, with the defaults of keys that came later; None where it cannot be read."""
    try:
        return dict(parse(to_yaml(validated(Recipe, parse(kept.read_text(encoding="utf-8"))))))
    except (OSError, ValueError):
        return None


def _difference(there: dict[str, Any], here: dict[str, Any], later: Sequence[str]) -> str:
    """Where a kept recipe and this one part first, as a half-sentence; empty where all models stand on the same."""
    both = there["roles"].keys() & here["roles"].keys()
    trees = [
        {key: value for key, value in tree.items() if key not in (*JUDGE, *later)}
        | {"roles": {role: spec for role, spec in tree["roles"].items() if role in both}}
        for tree in (there, here)
    ]
    return _told_parting((), *trees)


def _told_parting(home: tuple[str, ...], there: Any, here: Any) -> str:
    """Where two trees at ``home`` part first, as a half-sentence; empty where they do not."""
    found = _parting(there, here, home)
    if found is None:
        return ""
    place, then, now = found
    return f" ({_place(place)} is {_told(then, now)} there and {_told(now, then)} here)"


def _place(parts: tuple[str, ...]) -> str:
    """A place of any length; both of its ends are needed."""
    text = ".".join(parts)
    return short(text if len(text) <= 60 else f"{text[:28]}…{text[-30:]}", quoted=False)


def _parting(there: Any, here: Any, place: tuple[str, ...]) -> tuple[tuple[str, ...], Any, Any] | None:
    """(place, value, value) of the first difference of two trees; None where there is none."""
    if isinstance(there, dict) and isinstance(here, dict):
        pairs = {str(key): (there.get(key, _MISSING), here.get(key, _MISSING)) for key in {**there, **here}}
    elif isinstance(there, list) and isinstance(here, list):
        pairs = {str(i): pair for i, pair in enumerate(zip_longest(there, here, fillvalue=_MISSING))}
    else:
        return None if there == here else (place, there, here)
    return next((found for key, (a, b) in pairs.items() if (found := _parting(a, b, (*place, key)))), None)


def _told(value: Any, other: Any) -> str:
    """A value as a sentence shows it, a long text from shortly before it parts from the ``other`` one."""
    if isinstance(value, str) and isinstance(other, str):
        alike = next((i for i, (a, b) in enumerate(zip(value, other)) if a != b), min(len(value), len(other)))
        value = value if alike <= 40 else "…" + value[alike - 10 :]
    return "not given" if value is _MISSING else "null" if value is None else short(value)


def claim_data(out: Path, digests: Mapping[str, str]) -> None:
    """Keeps the digests of the data and of code, or refuses what has changed since the run began.

    Where nothing was trained yet, changed code begins the run anew, as after an error in its first step.
    Roles that are new to a run that has begun are kept by ``keep``, when all of them have been looked at.
    """
    kept = _digests(out)
    changed = [role for role in digests if role in kept and kept[role] != digests[role]]
    if not started(out):
        write_json(out / DATA, dict(digests))
    elif changed and all(key.startswith(OWN) for key in changed) and not _trained(out):
        for measured in out.glob("seed-*"):
            shutil.rmtree(measured)
        write_json(out / DATA, {**kept, **digests})
    elif changed and changed[0].startswith(OWN):
        raise RecipeError(
            f"{changed[0].removeprefix(OWN)}: its code has changed since the run in {out} began; choose another folder"
            " with --out, or delete that one."
        )
    elif changed:
        raise RecipeError(
            f"roles.{changed[0]}: its rows have changed since the run in {out} began; choose another folder with"
            f" --out, delete that one, {RENAME}."
        )


def code_of(recipe: Recipe, *, allow_imports: bool = False) -> dict[str, str]:
    """Digests of the user's own code that decides what is trained, to be kept beside those of the data."""
    trains = {key: value for key, value in plain(recipe).items() if key not in (*JUDGE, *LATER)}
    return {f"{OWN}{name}": digest for name, digest in code_digests(trains, allow_imports=allow_imports).items()}


def keep(out: Path, recipe: Recipe, own: Sequence[Plan], digests: Mapping[str, str]) -> None:
    """Writes the recipe that the run goes on with, its plans and the digests of the roles that came with it.

    Those of plans and roles that went stay: one that comes back is made as it was, and has the rows that it had.
    """
    kept, file, made = _digests(out), out / RECIPE, made_here(out, own)
    if made != _made_there(out):
        write_text(out / MADE, dump(made))
    if not digests.items() <= kept.items():
        write_json(out / DATA, {**kept, **digests})
    if file.read_text(encoding="utf-8") != to_yaml(recipe):
        write_text(file, to_yaml(recipe))


def _digests(out: Path) -> dict[str, str]:
    file = out / DATA
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def claim_code(out: Path, commit: str) -> None:
    """Keeps the commit of the code that goes on with the run, after those that worked on it before."""
    found = _commits(out)
    if commit not in ("unknown", *found[-1:]):
        write_json(out / CODE, [*found, commit])


def commits_of(out: Path) -> dict[str, str]:
    """``{"commit": ...}``, with commas where a run went on with other code; empty where none is known."""
    found = _commits(out)
    return {"commit": ", ".join(found)} if found else {}


def _commits(out: Path) -> list[str]:
    file = out / CODE
    return list(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else []


def started(out: Path) -> bool:
    """Whether anything that took time lies in the folder."""
    return (out / "report.json").exists() or any(p.is_file() for p in out.glob("seed-*/**/*"))


def _trained(out: Path) -> bool:
    """Whether a report, a stage that is finished or a checkpoint of one lies in the folder."""
    kept = ("step-", "checkpoint-", "outcome.json")
    return (out / "report.json").exists() or any(p.name.startswith(kept) for p in out.glob("seed-*/**/*"))


def asked_of(audits: Mapping[str, Sequence[Spec]], *, allow_imports: bool = False) -> dict[tuple[str, str], str]:
    """The audits of a recipe as ``Asked``, in its order; with the code of the user's own where imports are allowed."""
    found = {}
    for role, own in audits.items():
        for name, spec in zip(audit_names(own), own, strict=True):
            code = code_digests(spec, allow_imports=allow_imports)
            found[role, name] = "+".join([row_digest({"spec": spec}), *([row_digest(code)] if code else [])])
    return found


def finished(out: Path, recipe: Recipe, own: Sequence[Plan], asked: Asked) -> Report | None:
    """The report of the finished run; None where there is none, or one that measured or expected something else."""
    file = out / "report.json"
    report = Report.load(file) if file.exists() else None
    if report is None or report.recipe != to_yaml(recipe):
        return None
    coded = {key: spec for key, spec in asked.items() if "+" in spec}
    homes = [out / f"seed-{seed}" / plan.name for seed in recipe.seeds for plan in own] if coded else []
    files = [file for home in homes for file in home.glob("**/scores.jsonl")]
    return report if all(measured_in(file, coded) == coded.keys() for file in files) else None


def add_scores(file: Path, scores: Scores, spec: str = "") -> None:
    """Writes every item of one audit, as a line of its own; read back, they are the same to the last bit.

    ``spec`` is the digest of what was asked, where that is known.
    """
    append_line(file, json.dumps(_entry(scores, spec), allow_nan=False))


def _entry(scores: Scores, spec: str) -> dict[str, Any]:
    """The fields, ``name`` first: by it ``read_scores`` knows a line before it is parsed."""
    entry: dict[str, Any] = {"name": scores.name} | ({"spec": spec} if spec else {})
    entry |= {f.name: getattr(scores, f.name) for f in dataclasses.fields(scores)}
    entry["items"] = scores.items.tolist()
    entry["groups"] = None if scores.groups is None else scores.groups.tolist()
    entry["bounds"] = [end if math.isfinite(end) else None for end in scores.bounds]
    entry["extra"] = {name: value if math.isfinite(value) else None for name, value in scores.extra.items()}
    return entry


def read_scores(file: Path, audit: str | None = None, *, asked: Asked | None = None) -> list[Scores]:
    """What ``add_scores`` wrote, of all audits or of one; a line that was not written to its end is none.

    Of ``asked``, in its order, what was measured as it says, or before that was written down; nothing else.  Raises
    ``ValueError`` for a file that cannot be read.
    """
    if asked is None:
        return [scores for _, scores in _lines(file, audit, None)]
    found: dict[tuple[str, str], Scores] = {}
    for spec, scores in _lines(file, audit, asked):
        key = (scores.role, scores.name)
        if spec or key not in found:
            found[key] = scores
    return [found[key] for key in asked if key in found]


def measured_in(file: Path, asked: Asked) -> set[tuple[str, str]]:
    """The (role, audit) of ``asked`` that need not be asked again.

    A line that does not say how it was measured is none of them: the recipe may have changed since.  The last one
    counts, as it does in ``read_scores``.
    """
    if not file.exists():
        return set()
    last = {(scores.role, scores.name): spec for spec, scores in _lines(file, None, asked) if spec}
    return {key for key, spec in last.items() if spec == asked[key]}


def _lines(file: Path, audit: str | None, asked: Asked | None) -> Iterator[tuple[str, Scores]]:
    """The digest of each line, empty where it has none, and its scores; of ``asked`` no line of another audit."""
    wanted = {key: spec.partition("+")[0] for key, spec in (asked or {}).items()}  # whatever the code was
    begins = b"" if audit is None else json.dumps({"name": audit})[:-1].encode()
    try:
        with file.open("rb") as lines:
            for line in lines:
                if line.startswith(begins) and line.endswith(b"\n"):
                    entry = json.loads(line)
                    spec = entry.pop("spec", "")
                    if asked is None or spec.partition("+")[0] in ("", wanted.get((entry["role"], entry["name"]))):
                        yield spec, _scores(entry)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} cannot be read ({error}); delete it and run the recipe again.") from None


def _scores(entry: dict[str, Any]) -> Scores:
    groups, outputs = entry["groups"], entry["outputs"]
    low, high = entry.get("bounds", (None, None))  # which files once did not have
    extra = {name: math.nan if value is None else value for name, value in entry["extra"].items()}
    return Scores(
        **{
            **entry,
            "items": torch.tensor(entry["items"], dtype=torch.float64),
            "ids": tuple(map(sys.intern, entry["ids"])),  # the same in every stage's scores of a role
            "groups": None if groups is None else torch.tensor(groups),
            "outputs": None if outputs is None else tuple(outputs),
            "extra": extra,
            "bounds": (UNBOUNDED[0] if low is None else low, UNBOUNDED[1] if high is None else high),
        }
    )
