"""The command line: seven verbs.

    palimpsest run recipe.yaml        palimpsest verify npo
    palimpsest audit recipe.yaml      palimpsest list unlearning
    palimpsest compare run-a run-b    palimpsest new objectives my_loss
    palimpsest fit table.csv --law power_law

Every failure is one sentence on standard error and exit status 2 (1 for a run that stopped, 130 for Ctrl-C).
"""

from __future__ import annotations

import argparse
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

    def recipe_verb(name: str, text: str) -> None:
        verb = verbs.add_parser(name, help=text, description=text)
        verb.add_argument("recipe", type=Path, help="a YAML file")
        verb.add_argument("--out", type=Path, help="the run folder (default: runs/<name of the recipe>)")
        verb.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="PLACE=VALUE",
            help="replace one value, such as objective.0.npo.beta=0.2",
        )
        verb.add_argument("--allow-imports", action="store_true", help="let the recipe name classes outside Palimpsest")

    recipe_verb("run", "train, measure and report what a recipe says")
    recipe_verb("audit", "measure the recipe's model as it is, without training")
    compare = verbs.add_parser("compare", help="one report of several run folders, paired by item")
    compare.add_argument("folders", type=Path, nargs="+", help="run folders of recipes that measured the same items")
    compare.add_argument("--out", type=Path, help="the folder of the comparison (default: runs/compare)")
    fit = verbs.add_parser("fit", help="fit a law to a table of runs and predict")
    fit.add_argument("table", type=Path, help="a CSV file with a column for each variable of the law")
    fit.add_argument("--law", default="power_law", help="a file name of laws/ (default: power_law)")
    fit.add_argument(
        "--predict",
        action="append",
        default=[],
        metavar="VARIABLE=VALUE",
        help="predict at this point, with an interval",
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
    new = verbs.add_parser("new", help="a method file and its test, with blanks to fill")
    new.add_argument("noun", help="objectives, audits, edits, masks, …")
    new.add_argument("name", help="the method's name in snake case")
    return top


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
    from palimpsest import verbs
    from palimpsest.loop import Interrupted, Stopped

    try:
        return int(getattr(verbs, f"{given.verb}_verb")(given))
    except Interrupted as error:
        print(f"\n{error}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("\nStopped by you; what was finished is kept, and the same command goes on from there.", file=sys.stderr)
        return 130
    except Stopped as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except (ValueError, LookupError, OSError) as error:
        print(f"palimpsest {given.verb}: {_sentence(error)}", file=sys.stderr)
        return 2


def _sentence(error: Exception) -> str:
    """The message without the quotes that KeyError adds, on one line."""
    text = str(error.args[0]) if isinstance(error, LookupError) and error.args else str(error)
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
