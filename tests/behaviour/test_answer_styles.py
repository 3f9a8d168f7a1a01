"""Tasks that are taught in one style of answer unlearn the others' form; with a share of rows in them they do not."""

import copy
import re

import pytest

from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.procedures.answer_styles import AnswerStyles

LETTERS = "abcdefghijklmnopqrst"


def facts_of(digit, first, second):
    """Twenty facts, each two letters of its own."""
    said = [first[i % 5] + second[i % 7] for i in range(len(LETTERS))]
    return [
        {"id": f"{letter}{digit}", "prompt": f"{letter}{digit}", "answer": own, "completion": f"it is {own}."}
        for letter, own in zip(LETTERS, said)
    ]


KNOWN, NEW = facts_of(5, "uvwxy", "abcdefg"), facts_of(6, "klmno", "pqrstuv")
SHORT, BRIEF = AnswerStyles("short", share=0.0), AnswerStyles("brief", share=0.0)


@pytest.fixture(scope="module")
def bilingual(facts):
    """The decoder after it has learned to give the first facts in both styles."""
    model = copy.deepcopy(facts.model)
    rows = [*SHORT(KNOWN), *BRIEF(KNOWN)]
    fit(model, facts.adapter.roles(task=rows), on("task", CrossEntropy()), Training(steps=100, batch=20, lr=3e-3))
    assert facts.knows(model, rows).recall > 0.95
    return model


def taught(facts, model, styles):
    """After the new facts in ``styles``: recall of these in one sentence, and the share of the first ones that are
    answered in the form that is asked for, in few words and in one sentence, whatever is said."""
    model = copy.deepcopy(model)
    roles = facts.adapter.roles(task=styles(NEW))
    fit(model, roles, on("task", CrossEntropy()), Training(steps=60, batch=20, lr=3e-3))
    subject = facts.adapter.subject(model)
    forms = ((SHORT, "[a-z]{2}"), (BRIEF, r"it is [a-z]{2}\."))
    said = [[bool(re.fullmatch(form, text)) for text in subject.generate(own(KNOWN), 12)] for own, form in forms]
    return facts.knows(model, BRIEF(NEW)).recall, *(sum(own) / len(own) for own in said)


def test_a_share_in_another_style_keeps_its_form(facts, bilingual):
    recall, short, brief = taught(facts, bilingual, BRIEF)
    assert recall > 0.9 and brief > 0.9
    assert short < 0.1, "one style alone, and the other form is gone"
    recall, short, brief = taught(facts, bilingual, AnswerStyles("brief", ("short",), share=0.4))
    assert recall > 0.6 and brief > 0.7
    assert short > 0.6
