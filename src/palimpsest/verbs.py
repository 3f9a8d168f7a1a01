"""What each verb of the command line does."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `palimpsest list` must not wait for torch
    from palimpsest.law import Law
    from palimpsest.loop import Progress
    from palimpsest.recipe import Recipe
    from palimpsest.report import Change, Report, Versus

__all__ = ["VERBS", "Console"]

UNMET = ("lost", "failed", "not shown")
"""Verdicts with which ``palimpsest run --strict`` ends with exit status 1."""


class Console:
    """Prints what a run tells, on standard error: one line a part, with the time that is left of it."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.live = sys.stderr.isatty()
        self.began = self.start
        self.printed = 0.0
        self.heading = ""

    def part(self, number: int, parts: int, label: str) -> None:
        """A new part begins."""
        self._end()
        self.heading = f"[{number}/{parts}] {label}"
        self.began = time.perf_counter()
        _show(f"{self.heading}  ({_clock(self.began - self.start)} so far)\n")

    def progress(self, label: str, progress: Progress) -> None:
        """A step is done; at most two lines a second on a terminal, one every ten seconds in a log."""
        now = time.perf_counter()
        last = progress.step == progress.steps
        if not last and now - self.printed < self._pause:
            return
        self.printed = now
        left = progress.seconds / progress.step * (progress.steps - progress.step)
        values = "  ".join(f"{name} {value:.3f}" for name, value in progress.parts.items())
        self._line(f"    step {progress.step}/{progress.steps}  {values}  {_clock(left)} left")

    def answered(self, label: str, answered: int, asked: int, seconds: float) -> None:
        """An audit is on its way; as often as ``progress``, and never for what is done within that time."""
        now = time.perf_counter()
        if answered == asked or now - max(self.printed, self.began) < self._pause:
            return
        self.printed = now
        left = seconds / answered * (asked - answered)
        self._line(f"    {label}: {100 * answered // asked} % of the rows  {_clock(left)} left")

    def working(self, text: str) -> None:
        """What cannot say how long it takes is on its way; as often as ``answered``."""
        now = time.perf_counter()
        if now - max(self.printed, self.began) < self._pause:
            return
        self.printed = now
        self._line(f"    {text}")

    @property
    def _pause(self) -> float:
        """Seconds between two lines of progress."""
        return 0.5 if self.live else 10.0

    def _line(self, text: str) -> None:
        """On a terminal in place of the line before."""
        _show(f"\r\033[K{text}" if self.live else f"{text}\n")

    def note(self, text: str) -> None:
        """A sentence on a line of its own, after which something new begins."""
        self._end()
        self.began = time.perf_counter()
        _show(f"{text}\n")

    def _end(self) -> None:
        if self.live and self.printed:
            _show("\n")
        self.printed = 0.0


def _show(text: str) -> None:
    """Text on standard error, in one write: ``print`` makes two, and Ctrl-C between them would glue two lines."""
    sys.stderr.write(text)
    sys.stderr.flush()


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _quiet_libraries() -> None:
    """Hugging Face's own bars and advice would break the progress lines."""
    import os
    import warnings

    for library in ("transformers", "peft", "huggingface_hub"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=library)

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _raw(given: argparse.Namespace) -> Any:
    """What the recipe's file says; classes of the user's own may stand in a module beside it."""
    from palimpsest.recipe_source import read

    _quiet_libraries()
    beside = str(given.recipe.resolve().parent)
    if given.allow_imports and beside not in sys.path:
        sys.path.append(beside)  # at the end, so that no file there hides another module
    return read(given.recipe, given.allow_imports)


def run_verb(given: argparse.Namespace) -> int:
    """``palimpsest run``."""
    from palimpsest.recipe_source import parse_recipe

    recipe = parse_recipe(_raw(given), given.set, allow_imports=given.allow_imports)
    out = given.out or Path("runs") / recipe.name
    report = _report(recipe, out, given)
    if report is None:
        return 0
    _verdicts(report, out)
    _where_the_model_is(recipe, out, given.allow_imports)
    return 1 if given.strict and any(v.verdict in UNMET for v in report.verdicts) else 0


def _report(recipe: Recipe, out: Path, given: argparse.Namespace) -> Report | None:
    """The recipe's report; None on a process for which another one speaks."""
    from palimpsest.processes import is_first, joined
    from palimpsest.run import run

    with joined():
        console = Console() if is_first() else None
        report = run(recipe, out, folder=given.recipe.parent, events=console, allow_imports=given.allow_imports)
    if console is None:
        return None
    console.note("")
    return report


def audit_verb(given: argparse.Namespace) -> int:
    """``palimpsest audit``."""
    from palimpsest.recipe_source import parse_recipe
    from palimpsest.verdict import figure_of

    raw = _raw(given)
    recipe = parse_recipe(raw, given.set, allow_imports=given.allow_imports, audit_only=True)
    out = given.out or Path("runs") / f"{recipe.name}-audit"
    report = _report(recipe, out, given)
    if report is None:
        return 0
    if raw.get("expect") or any(text.startswith("expect") for text in given.set):
        print("Warning: expect is left out, since an audit trains nothing that could be judged; palimpsest run judges.")
    for score in report.scores:
        figure = figure_of(score.role, score.audit, score.unit)
        print(f"{figure}: {score.value:.3f}  {_ends(score.low, score.high, '.3f')}  n = {score.n}")
    print(f"Report: {(out / 'report.html').resolve()}")
    return 0


def _verdicts(report: Report, out: Path) -> None:
    for warning in report.warnings:
        print(f"Warning: {warning}")
    for verdict in report.verdicts:
        print(f"{verdict.verdict.upper():10s} {verdict.sentence}")
    if not report.verdicts:  # nothing was expected, so the changes are what there is to say
        _changes(report.changes, report)
    else:
        _variants(report)
    print(f"\nReport: {(out / 'report.html').resolve()}")


def _where_the_model_is(recipe: Recipe, out: Path, allow_imports: bool) -> None:
    """The folder of the trained model, where it is one that loads without the recipe."""
    from palimpsest.plans import model_folder

    folder = model_folder(recipe, allow_imports=allow_imports)
    if folder is not None and (out / folder / "config.json").exists():
        print(f"Model:  {(out / folder).resolve()}")


def _changes(changes: Iterable[Change | Versus], report: Report) -> None:
    """A line for each change from before, or difference to another run."""
    from palimpsest.report import Versus
    from palimpsest.verdict import figure_of

    for change in changes:
        figure = figure_of(change.role, change.audit, report.unit_of(change.role, change.audit))
        if isinstance(change, Versus):
            name, value = f"{change.run} minus {change.reference}", change.value
        else:
            name, value = change.run, change.change
        print(f"{name}: {figure} {value:+.3f}  {_ends(change.low, change.high, '+.3f')}")


def _ends(low: float, high: float, form: str) -> str:
    """An interval in brackets."""
    if math.isnan(low) and math.isnan(high):
        return "[no interval]"
    return f"[{low:{form}}, {high:{form}}]"


def _variants(report: Report) -> None:
    """The changes of variants, which have no verdict, in the figures that are judged."""
    judged = {(v.role, v.audit) for v in report.verdicts}
    variants = {run.name for run in report.runs if run.kind == "variant"}
    changes = [c for c in report.changes if c.run in variants and (c.role, c.audit) in judged]
    if changes:
        print("\nVariants, as changes from before:")
        _changes(changes, report)


def compare_verb(given: argparse.Namespace) -> int:
    """``palimpsest compare``."""
    from palimpsest.checkpoint import write_text
    from palimpsest.compare import compare
    from palimpsest.page import render

    out: Path = given.out or Path("runs") / "compare"
    report = compare(given.folders)
    if (out / "recipe.yaml").exists():
        raise ValueError(f"{out} holds a run, whose report would be lost; choose another folder with --out.")
    write_text(out / "report.json", report.to_json() + "\n")
    write_text(out / "report.html", render(report))
    for warning in report.warnings:
        print(f"Warning: {warning}")
    for verdict in report.verdicts:
        print(f"{verdict.verdict.upper():10s} {verdict.run}: {verdict.sentence}")
    _changes(report.changes, report)
    afters = {run.name for run in report.runs if run.kind == "after"}
    _changes((v for v in report.versus if v.reference in afters), report)
    print(f"Report: {(out / 'report.html').resolve()}")
    return 0


def fit_verb(given: argparse.Namespace) -> int:
    """``palimpsest fit``."""
    from palimpsest.data import load_rows
    from palimpsest.names import build
    from palimpsest.yaml_text import NotYaml, parse

    try:
        law: Law = build(parse(given.law), "laws", place="--law")
    except NotYaml as error:
        raise ValueError(f"--law {given.law}: this is not YAML ({error.reason}); write a law's name.") from None
    points = [_point(text, law.variables) for text in given.predict]
    if not given.table.exists():
        raise ValueError(f"There is no table {given.table}; check the path, and name a .csv, .jsonl or .parquet file.")
    fitted = law.fit(load_rows(str(given.table)))
    print(fitted.describe())
    for text, point in zip(given.predict, points, strict=True):
        found = fitted.predict(point)
        print(f"at {text}: {law.target} = {found.mean:.5g}  [{found.low:.5g}, {found.high:.5g}]")
    return 0


def _point(text: str, variables: Sequence[str]) -> dict[str, float]:
    """``--predict``: a value for each variable of the law, several with commas between them."""
    point: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in variables:
            raise ValueError(f"--predict {text}: the law's variables are {', '.join(variables)}.")
        if name in point:
            raise ValueError(f"--predict {text}: it gives {name} twice; write --predict once for each point.")
        try:
            point[name] = float(value)
        except ValueError:
            raise ValueError(f"--predict {text}: write it as variable=number.") from None
    return point


def verify_verb(given: argparse.Namespace) -> int:
    """``palimpsest verify``."""
    from palimpsest.loop import Interrupted
    from palimpsest.verification import verify

    _quiet_libraries()
    console = Console()
    try:
        record = verify(given.paper, given.budget, given.seeds, given.out, note=console.note, working=console.working)
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(
            "Stopped by you before the last claim had run; evidence is written of all or of none."
        ) from None
    for claim in record["claims"]:
        print(f"{claim['evidence']['verdict'].upper():10s} {claim['says']}\n           {claim['evidence']['because']}")
    return 0


def list_verb(given: argparse.Namespace) -> int:
    """``palimpsest list``."""
    from palimpsest.card import method_cards
    from palimpsest.claim import load_paper, paper_slugs
    from palimpsest.names import FAMILIES

    words = [w.lower() for w in given.words]
    nouns = [w for w in words if w in (*FAMILIES, "papers")]
    wanted = [w for w in words if w not in nouns]
    lines = []
    for method in method_cards():
        text = f"{method.family} {method.name} {method.card.summary} {' '.join(method.card.tags)}".lower()
        if (not nouns or method.family in nouns) and all(w in text for w in wanted):
            lines.append(f"{method.family:14s} {method.name:26s} {method.card.summary}")
            if method.name in wanted:
                lines += [f"{'':14s} {'':26s} {line}" for line in _fields(method.name, method.family)]
    for slug in paper_slugs() if not nouns or "papers" in nouns else ():
        entry = load_paper(slug)
        text = (
            f"{slug} {entry.paper.title} {entry.paper.authors} {entry.paper.year} {' '.join(entry.paper.tags)}"
            f" {entry.paper.summary} {entry.state}".lower()
        )
        if all(w in text for w in wanted):
            lines.append(f"{'paper':14s} {slug:26s} {entry.paper.title} ({entry.paper.year}), {entry.state}")
    if not lines:
        print(f"Nothing has all of the words: {' '.join(words)}.")
        return 1
    print("\n".join(lines))
    return 0


def _fields(name: str, family: str) -> list[str]:
    """The fields of a method that is asked for by its name, as ``field: type = default``."""
    import dataclasses
    import inspect

    from palimpsest.names import fields_of

    lines = []
    for f in fields_of(name, family):
        kind = f.type if isinstance(f.type, str) else inspect.formatannotation(f.type)
        made = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        default = made.__name__ if inspect.isfunction(made) else repr(made)  # not where it lies in memory
        lines.append(f"{f.name}: {kind}" + (", needed" if made is dataclasses.MISSING else f" = {default}"))
    return lines


def new_verb(given: argparse.Namespace) -> int:
    """``palimpsest new``."""
    from palimpsest.blanks import write_blanks

    written = write_blanks(given.noun, given.name, Path.cwd())
    for path in written:
        print(f"Wrote {path}.")
    cls = "".join(part.capitalize() for part in given.name.split("_"))
    tests = f"tests/methods/test_{given.name}.py tests/contract -k {given.name}"
    if written[0].parent == Path.cwd():
        tests = written[1].name
        print(f"A recipe in this folder names it as {given.name}:{cls}, with --allow-imports.")
    print(f"Fill the blanks until this is green: pytest {tests}")
    return 0


VERBS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "run": run_verb,
    "audit": audit_verb,
    "compare": compare_verb,
    "fit": fit_verb,
    "verify": verify_verb,
    "list": list_verb,
    "new": new_verb,
}
