"""What the user's own parts return, checked, and what they fail with, as a sentence that names their line."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path

from palimpsest.audit import OwnItems, Row, Scores, row_ids
from palimpsest.checkpoint import write_text
from palimpsest.own_code import line_of
from palimpsest.recipe import RecipeError, short

__all__ = ["OwnCodeError", "checked_scores", "failed", "failure", "with_traceback"]


class OwnCodeError(RecipeError):
    """The user's own code failed; the message says how and in which line, the cause has the traceback."""


def failed(error: Exception, place: str) -> OwnCodeError | None:
    """The sentence for an error that arose in the user's own code; None where it arose elsewhere."""
    if isinstance(error, OwnCodeError):
        return error
    line = line_of(error)
    if line is None:
        return None
    message = " ".join(str(error).split())[:200].rstrip(".")
    told = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return OwnCodeError(f"{place}: {told} ({line}); correct that code.")


def failure(name: str, error: Exception) -> str:
    """The sentence for code of the user's own, called ``name``, that failed as it was loaded or made."""
    line = line_of(error)
    return f"{name} failed ({type(error).__name__}: {error}{f'; {line}' if line else ''}); correct its code."


def with_traceback(error: OwnCodeError, file: Path) -> OwnCodeError:
    """The same error, whose sentence names ``file``, into which its traceback is written."""
    write_text(file, "".join(traceback.format_exception(error.__cause__ or error)))
    return OwnCodeError(f"{str(error).rstrip('.')}; its traceback lies in {file}.")


def checked_scores(scores: object, audit: object, rows: Sequence[Row], role: str) -> Scores:
    """What an audit of ``rows`` returned.

    Raises ``ValueError`` where it is not what an audit returns; of an audit from outside Palimpsest also where the ids
    are not those of the rows, each once, unless it has ``own_items``.
    """
    if not isinstance(scores, Scores):
        raise ValueError(f"it returned a {type(scores).__name__}; return Scores, with a value and an id for each row.")
    if type(audit).__module__.startswith("palimpsest.") or (isinstance(audit, OwnItems) and audit.own_items):
        return scores
    known = set(row_ids(rows, role))
    fix = "give row_ids(rows, role), or write own_items = True in the class of an audit whose items are not its rows."
    odd = next((key for key in scores.ids if key not in known), None)
    if odd is not None:
        raise ValueError(f"it returned the id {short(odd)}, which no row of the role {role} has; {fix}")
    if len(scores.ids) != len(known):
        raise ValueError(f"it returned {len(scores.ids)} items for the {len(known)} rows of the role {role}; {fix}")
    return scores
