"""The method card is read from a docstring completely: nothing that was written is lost or moved."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest import card
from palimpsest.card import FIELDS, Card, docstring_of, method_cards, parse_card
from palimpsest.names import families

FULL = """Lowers the likelihood of the forget set,
    bounded by a reference.

        L = (2/beta) softplus(-beta d)

        d = n - n_ref          # [B]

    The weight decays as the sequence fades.

        second block

    Paper: Negative Preference Optimization (Zhang et al., 2024),
        arXiv 2404.05868, eq. 3.
    Code: written from the paper.
    Tags: unlearning, loss, language models.
    Needs: ref
    Differs: the sum runs over answer tokens;

        padding never counts.
    See: flat, loku

    A last word.
    """


def test_every_part_lands_in_its_field() -> None:
    assert parse_card(FULL) == Card(
        summary="Lowers the likelihood of the forget set, bounded by a reference.",
        equation="L = (2/beta) softplus(-beta d)\n\nd = n - n_ref          # [B]",
        body="The weight decays as the sequence fades.\n\n    second block\n\nA last word.",
        paper="Negative Preference Optimization (Zhang et al., 2024), arXiv 2404.05868, eq. 3.",
        code="written from the paper.",
        tags=("unlearning", "loss", "language models"),
        needs="ref",
        differs="the sum runs over answer tokens; padding never counts.",
        see="flat, loku",
    )


def test_a_sentence_alone_is_a_card() -> None:
    assert parse_card("Does one thing.") == Card("Does one thing.")


def test_a_field_may_be_empty_or_start_on_the_next_line() -> None:
    read = parse_card("One.\n\nPaper:\n    Title, 2024\nCode:\nTags:\n")
    assert (read.paper, read.code, read.tags) == ("Title, 2024", "", ())


def test_a_label_inside_a_sentence_or_a_block_is_no_field() -> None:
    read = parse_card("One.\n\nThe Paper: field is explained here.\n\n    Paper: in a block\n\nSee: npo")
    assert (read.paper, read.see) == ("", "npo")
    assert read.body == "The Paper: field is explained here."
    assert read.equation == "Paper: in a block"


def test_an_indented_block_right_below_a_line_is_the_equation() -> None:
    read = parse_card("One.\n\nThe loss is\n    a + b\nwith a > 0.")
    assert (read.equation, read.body) == ("a + b", "The loss is\n\nwith a > 0.")


@pytest.mark.parametrize("empty", ["", "   \n  \n"])
def test_an_empty_docstring_is_refused(empty: str) -> None:
    with pytest.raises(ValueError, match="empty"):
        parse_card(empty)


def test_a_card_without_a_sentence_is_refused() -> None:
    with pytest.raises(ValueError, match="does not begin with a sentence"):
        parse_card("Paper: a title\nTags: loss")


def test_a_field_given_twice_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="two lines 'Needs:'"):
        parse_card("One.\n\nNeeds: ref\nNeeds: teacher")


words = st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=1, max_size=6).map(" ".join)


@given(words, words, st.dictionaries(st.sampled_from(FIELDS), words, min_size=1), st.booleans())
def test_what_was_written_comes_back(summary: str, equation: str, fields: dict[str, str], wrap: bool) -> None:
    def lines(label: str, value: str) -> str:
        return f"{label}: " + (value.replace(" ", "\n    ") if wrap else value)

    text = f"{summary}\n\n    {equation}\n\n" + "\n".join(lines(k, v) for k, v in fields.items())
    read = parse_card(text)
    assert (read.summary, read.equation, read.body) == (summary, equation, "")
    for label in FIELDS:
        got = " ".join(read.tags) if label == "Tags" else str(getattr(read, label.lower()))
        assert got == fields.get(label, "")


def test_docstrings_are_read_from_the_source_of_modules_and_packages() -> None:
    assert docstring_of("palimpsest.card") == inspect.cleandoc(card.__doc__ or "")
    claims = Path(inspect.getfile(card)).parent / "claims" / "__init__.py"
    assert docstring_of("palimpsest.claims") == ast.get_docstring(ast.parse(claims.read_text()))


def test_every_method_has_a_card_and_no_other() -> None:
    found = {(c.family, c.name) for c in method_cards()}
    assert found == {(family, name) for family, members in families().items() for name in members}


def test_a_broken_card_names_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "families", lambda: {"objectives": {"nameless": "palimpsest.objectives.nameless"}})
    monkeypatch.setattr(card, "docstring_of", lambda module: "")
    with pytest.raises(ValueError, match=r"palimpsest\.objectives\.nameless: The module docstring is empty"):
        method_cards()
