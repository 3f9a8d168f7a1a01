"""Whether an answer worked out in steps ends right; an answer that cannot be read is told from a wrong one.

    read(output) = X   from "\\boxed{X}", else the last "answer is X" or "answer: X", else an output that is X alone
    item = 1 if X is the right answer, else 0;  beside the mean: the share that could not be read

X must be one of the row's ``choices`` where there are any, a number where the right answer is one, and else reaches to
the end of its sentence.

Paper: LLMs Can Get "Brain Rot"! (Xing, Hong, Wang et al., 2025), arXiv 2510.13928 (ARC with steps);
    Large Language Models are Zero-Shot Reasoners (Kojima et al., 2022), arXiv 2205.11916.
Code: llm-brain-rot/llm-brain-rot (extract_acc_gpt.py).
Tags: audit, retain, learn, reasoning, language-model.
Needs: the columns prompt and answer, and choices for labels; a subject that generates.
Differs: the release asks another model for the label, and where that reply does not fit takes its first letter from A
    to D, so that "The answer is C" is A and "No clear option" is C. Here nothing is guessed: such replies are read by
    the rules above, or not at all. Answers are greedy; the paper samples.
See: ``skipped_steps`` (what is missing in the steps), ``exact_match`` (an answer anywhere in the output).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from palimpsest.audit import SHARE, Row, Scores, Subject, column, role_rows, row_ids

__all__ = ["METHOD", "FinalAnswer", "Outcome", "number", "outcome", "read_answer"]

Outcome = Literal["right", "wrong", "unreadable"]
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_STATED = re.compile(r"\banswer\s*(?:is\b\s*:?|:)\s*", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?")
_ARTICLES = ("A", "I")  # labels that are also words: "the answer is A dog" names no option


def number(text: str) -> float | None:
    """``text`` as a number, where it is one and nothing else."""
    plain = text.strip()
    return float(plain.replace(",", "")) if _NUMBER.fullmatch(plain) else None


def read_answer(output: str, choices: Sequence[str] = (), *, numeric: bool = False) -> str | None:
    """The answer that ``output`` states, or None where it states none that can be read."""
    boxed = _BOXED.findall(output)
    if boxed:
        return _whole(boxed[-1], choices, numeric)
    stated = list(_STATED.finditer(output))
    if stated:
        return _first(output[stated[-1].end() :].partition("\n")[0], choices, numeric)
    return _whole(output, choices, numeric) if choices or numeric else None


def _whole(text: str, choices: Sequence[str], numeric: bool) -> str | None:
    """The label or number that ``text`` is, apart from the signs around it."""
    bare = text.strip().strip("()[]*\"'` ").rstrip(".:;,)").strip()
    if choices:
        return next((label for label in choices if label.casefold() == bare.casefold()), None)
    if numeric:
        return bare if number(bare) is not None else None
    return bare or None


def _first(text: str, choices: Sequence[str], numeric: bool) -> str | None:
    """The label or number that ``text`` begins with, or its first sentence."""
    begin = text.lstrip("([*\"'`$ ")
    if choices:
        for label in sorted(choices, key=len, reverse=True):
            rest = begin[len(label) :]
            word = label in _ARTICLES and re.match(r"\s+[a-z]", rest) is not None
            if begin.startswith(label) and not re.match(r"[\w/'-]|[.,]\d", rest) and not word:
                return label
        return None
    if numeric:
        match = _NUMBER.match(begin)
        # What follows at once makes it something else: 12th, 12/5, 12%.
        return match[0] if match and not re.match(r"[\w/%]", begin[match.end() :]) else None
    sentence = re.split(r"[.!?](?:\s|$)", begin, maxsplit=1)[0].strip().strip("*\"'`")
    return sentence or None


def outcome(output: str, answer: object, choices: Sequence[str] = ()) -> Outcome:
    """Whether ``output`` states ``answer``, something else, or nothing that can be read."""
    right = str(answer).strip()
    value = None if choices else number(right)
    said = read_answer(output, choices, numeric=value is not None)
    if said is None:
        return "unreadable"
    if value is not None:
        other = number(said)
        return "right" if other is not None and math.isclose(other, value, rel_tol=1e-9) else "wrong"
    same = re.findall(r"\w+", said.casefold()) == re.findall(r"\w+", right.casefold())
    return "right" if same else "wrong"


@dataclass(frozen=True)
class FinalAnswer:
    """``measure`` right counts right answers, readable those that state any; ``max_new_tokens`` of all steps."""

    measure: Literal["right", "readable"] = "right"
    max_new_tokens: int = 256

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """0 or 1 per row; ``extra`` holds the shares of the three outcomes, and of right among readable ones."""
        rows = role_rows(data, role, "final_answer")
        column(rows, "prompt", role, "final_answer")
        answers: list[Any] = column(rows, "answer", role, "final_answer")
        outputs = subject.generate(rows, self.max_new_tokens)
        found = [outcome(o, a, row.get("choices", ())) for o, a, row in zip(outputs, answers, rows, strict=True)]
        counted = [o == "right" if self.measure == "right" else o != "unreadable" for o in found]
        extra: dict[str, float] = {o: found.count(o) / len(found) for o in ("right", "wrong", "unreadable")}
        if extra["unreadable"] < 1:
            extra["right among readable"] = extra["right"] / (1 - extra["unreadable"])
        items = torch.tensor(counted, dtype=torch.float64)
        ids = row_ids(rows, role)
        return Scores("final_answer", items, ids, role=role, outputs=tuple(outputs), extra=extra, bounds=SHARE)


METHOD = FinalAnswer
