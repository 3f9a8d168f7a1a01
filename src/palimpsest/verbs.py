"""What each verb of the command line does."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `palimpsest list` must not wait for torch
    from palimpsest.loop import Progress
    from palimpsest.recipe import Recipe
    from palimpsest.report import Report

__all__ = ["VERBS", "Console"]


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


def _recipe(given: argparse.Namespace, *, audit_only: bool = False) -> Recipe:
    """The recipe that is given; classes of the user's own may stand in a module beside it."""
    from palimpsest.recipe_source import load_recipe

    _quiet_libraries()
    beside = str(given.recipe.resolve().parent)
    if given.allow_imports and beside not in sys.path:
        sys.path.append(beside)  # at the end, so that no file there hides another module
    return load_recipe(given.recipe, given.set, allow_imports=given.allow_imports, audit_only=audit_only)


def run_verb(given: argparse.Namespace) -> int:
    """``palimpsest run``."""
    recipe = _recipe(given)
    out = given.out or Path("runs") / recipe.name
    report = _report(recipe, out, given)
    if report is not None:
        _verdicts(report, out)
        _where_the_model_is(recipe, out, given.allow_imports)
    return 0


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
    recipe = _recipe(given, audit_only=True)
    out = given.out or Path("runs") / f"{recipe.name}-audit"
    report = _report(recipe, out, given)
    if report is None:
        return 0
    for score in report.scores:
        print(f"{score.role} / {score.audit}: {score.value:.3f}  [{score.low:.3f}, {score.high:.3f}]  n = {score.n}")
    print(f"Report: {(out / 'report.html').resolve()}")
    return 0


def _verdicts(report: Report, out: Path) -> None:
    for warning in report.warnings:
        print(f"Warning: {warning}")
    for verdict in report.verdicts:
        print(f"{verdict.verdict.upper():10s} {verdict.sentence}")
    if not report.verdicts:  # nothing was expected, so the changes are what there is to say
        _changes(report)
    print(f"\nReport: {(out / 'report.html').resolve()}")


def _where_the_model_is(recipe: Recipe, out: Path, allow_imports: bool) -> None:
    """The folder of the trained model, where it is one that loads without the recipe."""
    from palimpsest.plans import model_folder

    folder = model_folder(recipe, allow_imports=allow_imports)
    if folder is not None and (out / folder / "config.json").exists():
        print(f"Model:  {(out / folder).resolve()}")


def _changes(report: Report) -> None:
    for change in report.changes:
        print(
            f"{change.run}: {change.role} / {change.audit} {change.change:+.3f}  [{change.low:+.3f},"
            f" {change.high:+.3f}]"
        )


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
    for verdict in report.verdicts:
        print(f"{verdict.verdict.upper():10s} {verdict.run}: {verdict.sentence}")
    _changes(report)
    for v in (v for v in report.versus if v.reference != "retrained"):
        print(f"{v.run} minus {v.reference}: {v.role} / {v.audit} {v.value:+.3f}  [{v.low:+.3f}, {v.high:+.3f}]")
    print(f"Report: {(out / 'report.html').resolve()}")
    return 0


def fit_verb(given: argparse.Namespace) -> int:
    """``palimpsest fit``."""
    from palimpsest.data import load_rows
    from palimpsest.names import resolve

    law = resolve(given.law, "laws")()
    table = load_rows(str(given.table))
    fitted = law.fit(table)
    print(fitted.describe())
    if given.predict:
        point = {}
        for text in given.predict:
            name, equals, value = text.partition("=")
            try:
                point[name] = float(value)
            except ValueError:
                raise ValueError(f"--predict {text}: write it as variable=number.") from None
            if not equals or name not in law.variables:
                raise ValueError(f"--predict {text}: the law's variables are {', '.join(law.variables)}.")
        prediction = fitted.predict(point)
        print(f"{law.target} = {prediction.mean:.5g}  [{prediction.low:.5g}, {prediction.high:.5g}]")
    return 0


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
