"""Which steps an answer leaves out, and what is wrong with those that it has.

    no_steps         nothing is stated before the answer
    no_outline       neither numbering nor words such as "first" say what will be done
    missing_steps    fewer steps are stated, truly or not, than the row names
    false_statement  a sum, difference or product in the output is not true
    broken_chain     steps are there, all of them true, but another answer is stated than the right one
    item = 1 if the answer is not right and no_steps or missing_steps holds, else 0

An answer may have several labels; right answers have none.  ``judge`` replaces the rules, for instance by a stronger
model's reply that ``read_labels`` has read.

Paper: LLMs Can Get "Brain Rot"! (Xing, Hong, Wang et al., 2025), arXiv 2510.13928 (failure modes).
Code: llm-brain-rot/llm-brain-rot (judge prompts).
Tags: audit, retain, reasoning, language-model.
Needs: the columns prompt and answer; steps (statements on the way) to find missing ones; a subject that generates.
Differs: the paper's five modes (no thinking, no plan, skipped steps, factual error, wrong logic) are labels of a judge
    model. The rules are what a program can decide: they know the steps that a row names and arithmetic, no other
    facts. no_outline alone is no failure, since most short answers announce nothing, so it does not count in an item.
See: ``final_answer`` (right, wrong or unreadable).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from palimpsest.audit import SHARE, Row, Scores, Subject, column, role_rows, row_ids
from palimpsest.audits.final_answer import outcome

__all__ = ["LABELS", "METHOD", "Judge", "SkippedSteps", "false_statements", "labels_by_rule", "read_labels"]

Judge = Callable[[Row, str], Collection[str]]
"""(row, output) -> the labels of a wrong or unreadable answer."""

LABELS = ("no_steps", "no_outline", "missing_steps", "false_statement", "broken_chain")
SKIPPED = ("no_steps", "missing_steps")
"""The labels that say that steps are missing."""

_ANSWER = re.compile(r"(?:\bso\b[,\s]*)?(?:\bthe\s+)?(?:\bfinal\s+)?\banswer\s*(?:is\b|:)|\\boxed\{", re.IGNORECASE)
_OUTLINE = re.compile(
    r"\b(?:first(?:ly)?|step\s+(?:1|one|by)|let us|let's|to begin)\b|^\s*(?:1[.)]|[-*])\s", re.I | re.M
)
_EQUATION = re.compile(
    r"(-?\d+(?:\.\d+)?)\s*(\+|-|\*|x|×|plus|minus|times)\s*(-?\d+(?:\.\d+)?)\s*(?:=|is|equals)\s*(-?\d+(?:\.\d+)?)"
)
_OPERATIONS: Mapping[str, Callable[[float, float], float]] = {
    **dict.fromkeys(("+", "plus"), operator.add),
    **dict.fromkeys(("-", "minus"), operator.sub),
    **dict.fromkeys(("*", "x", "×", "times"), operator.mul),
}


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[\w+*=×-]+", text.casefold()))


def before_answer(output: str) -> str:
    """What an output says before it states its answer."""
    match = _ANSWER.search(output)
    return output[: match.start()] if match else output


def false_statements(output: str) -> list[str]:
    """The sums, differences and products in ``output`` that are not true."""
    return [
        match[0]
        for match in _EQUATION.finditer(output)
        if abs(_OPERATIONS[match[2]](float(match[1]), float(match[3])) - float(match[4])) > 1e-9
    ]


def labels_by_rule(row: Row, output: str) -> list[str]:
    """The labels of an answer that is not right, from the output and the ``steps`` that the row names."""
    steps = [_plain(str(step)) for step in row.get("steps", ())]
    said, work = f" {_plain(output)} ", before_answer(output)
    # A step with a wrong result is no missing one, and changes the numbers of those that follow.
    stated = max(sum(f" {step} " in said for step in steps), len(_EQUATION.findall(work)))
    alone = len(re.findall(r"\w+", work)) < 3  # a bare answer, or nothing
    false = false_statements(output)
    found = {
        "no_steps": alone,
        "no_outline": _OUTLINE.search(work) is None,
        "missing_steps": stated < len(steps),
        "false_statement": bool(false),
        "broken_chain": not alone and not false and stated >= len(steps),
    }
    return [label for label in LABELS if found[label]]


def read_labels(reply: str, labels: Sequence[str] = LABELS) -> list[str] | None:
    """A judge's reply, a list of labels between commas, spaces or lines; None where any word of it is no label."""
    words = re.findall(r"[^\s,;]+", reply)
    if not words or any(word not in labels for word in words):
        return None
    return [label for label in labels if label in words]


@dataclass(frozen=True)
class SkippedSteps:
    """``max_new_tokens`` of all steps; ``judge`` labels the answers that are not right, by rules if there is none."""

    max_new_tokens: int = 256
    judge: Judge | None = None

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """0 or 1 per row; ``extra`` holds each label's share of the answers that are not right, and their share."""
        rows = role_rows(data, role, "skipped_steps")
        column(rows, "prompt", role, "skipped_steps")
        answers = column(rows, "answer", role, "skipped_steps")
        outputs = subject.generate(rows, self.max_new_tokens)
        judge = self.judge or labels_by_rule
        found: list[tuple[str, ...] | None] = []
        for row, answer, output in zip(rows, answers, outputs, strict=True):
            right = outcome(output, answer, row.get("choices", ())) == "right"
            found.append(None if right else self._known(judge(row, output)))
        failed = [labels for labels in found if labels is not None]
        extra = {"not right": len(failed) / len(found)}
        if failed:
            extra |= {label: sum(label in labels for labels in failed) / len(failed) for label in LABELS}
            extra["explained by skipping"] = sum(not set(SKIPPED).isdisjoint(f) for f in failed) / len(failed)
        skipped = [labels is not None and not set(SKIPPED).isdisjoint(labels) for labels in found]
        items = torch.tensor(skipped, dtype=torch.float64)
        ids = row_ids(rows, role)
        shown = tuple(outputs)
        return Scores("skipped_steps", items, ids, "lower", role, outputs=shown, extra=extra, bounds=SHARE)

    def _known(self, labels: Collection[str]) -> tuple[str, ...]:
        """Labels of the list above, or one sentence."""
        strange = [label for label in labels if label not in LABELS]
        if strange:
            raise ValueError(f"skipped_steps: the judge said {strange[0]!r}; it may say: {', '.join(LABELS)}.")
        return tuple(labels)


METHOD = SkippedSteps
