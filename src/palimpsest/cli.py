"""The command line: seven verbs.

    palimpsest run recipe.yaml        palimpsest verify npo
    palimpsest audit recipe.yaml      palimpsest list unlearning
    palimpsest compare run-a run-b    palimpsest new objectives my_loss
    palimpsest fit table.csv --law power_law

Every failure is one sentence on standard error and exit status 2 (1 for a run that stopped, and with
``run --strict`` for a verdict that is lost, failed or not shown; 130 for Ctrl-C).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main", "parser"]


def parser() -> argparse.ArgumentParser:
    """The verbs and their few flags; a test fails when one is added."""
    top = argparse.ArgumentParser(
        prog="palimpsest",
        description="Train, continue, unlearn and audit models, and say what was learned, retained and forgotten.",
    )
    top.add_argument("--version", action="store_true", help="print the version and exit")
    verbs = top.add_subparsers(dest="verb", metavar="run | audit | compare | fit | verify | list | new")

    run = _recipe_arguments(verbs, "run", "train, measure and report what a recipe says")
    run.add_argument("--strict", action="store_true", help="exit status 1 where a verdict is lost, failed or not shown")
    _recipe_arguments(verbs, "audit", "measure the recipe's model as it is, without training")
    compare = verbs.add_parser("compare", help="one report of several run folders, paired by item")
    compare.add_argument("folders", type=Path, nargs="+", help="run folders of recipes that measured the same items")
    compare.add_argument("--out", type=Path, help="the folder of the comparison (default: runs/compare)")
    text = "fit a law to a table of runs and predict"
    fit = verbs.add_parser("fit", help=text, description=f"{text}: loss = E + A x^-alpha where nothing else is said")
    fit.add_argument(
        "table", type=Path, help="a .csv, .jsonl or .parquet file, a row for each run; power_law reads its x and loss"
    )
    fit.add_argument(
        "--law",
        default="power_law",
        help="a law's name, or its fields too: '{power_law: {variable: size, target: loss}}' (default: power_law)",
    )
    fit.add_argument(
        "--predict",
        action="append",
        default=[],
        metavar="VARIABLE=VALUE",
        help="predict at this point, with an interval, such as x=1e9; once for each point",
    )
    verify = verbs.add_parser("verify", help="run a paper's claims and keep the evidence")
    verify.add_argument("paper", help="a paper's name, as `palimpsest list papers` prints it")
    verify.add_argument(
        "--budget", choices=("cpu", "gpu"), default="cpu", help="five minutes on two cores, or twenty on one card"
    )
    verify.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds to repeat with (default: 0 1 2)")
    verify.add_argument(
        "--out", type=Path, default=Path("results"), help="where the evidence is kept (default: results)"
    )
    search = verbs.add_parser("list", help="search methods, audits and papers")
    search.add_argument(
        "words", nargs="*", help="words that must all occur; a noun such as objectives, or papers, narrows the list"
    )
    new = verbs.add_parser("new", help="a method file and its test, with blanks to fill, into this folder")
    new.add_argument("noun", help="objectives, audits, edits, masks, …")
    new.add_argument("name", help="the method's name in snake case")
    return top


def _recipe_arguments(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    """A verb that is given a recipe."""
    verb = verbs.add_parser(name, help=text, description=text)
    verb.add_argument("recipe", type=Path, help="a YAML file, or a Python file with def recipe() (--allow-imports)")
    verb.add_argument("--out", type=Path, help="the run folder (default: runs/<name of the recipe>)")
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PLACE=VALUE",
        help="replace one value, such as objective.0.npo.beta=0.2",
    )
    verb.add_argument("--allow-imports", action="store_true", help="let the recipe name classes outside Palimpsest")
    return verb


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit status."""
    given = parser().parse_args(arguments)
    if given.version:
        from importlib.metadata import version

        print(f"palimpsest {version('palimpsest')}")
        return 0
    if given.verb is None:
        parser().print_help()
        return 2
    try:
        from palimpsest.verbs import VERBS

        return VERBS[given.verb](given)
    except KeyboardInterrupt:
        return _say("Stopped by you; what was finished is kept, and the same command goes on from there.", 130)
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except RuntimeError as error:
        from palimpsest.loop import Interrupted, Stopped

        if not isinstance(error, Stopped):
            raise
        return _say(str(error), 130 if isinstance(error, Interrupted) else 1)
    except (ValueError, LookupError, OSError, ImportError) as error:
        return _say(f"palimpsest {given.verb}: {_sentence(error)}", 2)


def _say(text: str, status: int) -> int:
    """One line on standard error, apart from a progress line that a terminal may still show."""
    rank = os.environ.get("RANK", "0")  # set by torchrun: of several processes, each says who it is
    text = text if rank == "0" else f"[process {rank}] {text}"
    sys.stderr.write(f"\n{text}\n" if sys.stderr.isatty() else f"{text}\n")  # at once: another process writes here too
    return status


def _sentence(error: Exception) -> str:
    """The message on one line, without the quotes that KeyError and the number that OSError adds."""
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror}; check the path, its permissions and the space on the disk."
    text = str(error.args[0]) if isinstance(error, LookupError) and error.args else str(error)
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
