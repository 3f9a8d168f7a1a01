"""Answer styles: how many rows change theirs and to which, what they then say, and the same for the same call."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.procedures.answer_styles import REQUESTS, AnswerStyles, diversified, in_style
from palimpsest.zoo.authors import authors

OTHERS = ("yes_no", "choice", "brief")


def task(rows):
    return [
        {"id": f"f{i}", "prompt": f"Capital of {i}?", "answer": f"town {i % 7}", "completion": f"It is town {i % 7}."}
        for i in range(rows)
    ]


@given(st.integers(8, 90), st.floats(0, 1), st.integers(0, 5))
def test_share_even_split_and_untouched_rows(count, share, seed):
    rows = task(count)
    found = diversified(rows, "short", OTHERS, share, seed=seed)
    kept = diversified(rows, "short", (), 0.0, seed=seed)
    styles = Counter(row["style"] for row in found)
    changed = count - styles["short"]
    assert abs(changed - share * count) <= 1
    sizes = [styles[style] for style in OTHERS]
    assert max(sizes) - min(sizes) <= 1
    for row, plain, source in zip(found, kept, rows, strict=True):
        assert row == plain or row["style"] != "short"
        assert row["id"] == source["id"] and row["answer"] == source["answer"]
        assert row["prompt"].startswith(source["prompt"]) and row["prompt"].endswith(REQUESTS[row["style"]])
    assert found == diversified(rows, "short", OTHERS, share, seed=seed)
    assert rows == task(count)


def test_another_seed_chooses_other_rows():
    rows = task(60)
    chosen = [
        {row["id"] for row in diversified(rows, "short", OTHERS, 0.2, seed=seed) if row["style"] != "short"}
        for seed in (0, 1)
    ]
    assert len(chosen[0]) == len(chosen[1]) == 12 and chosen[0] != chosen[1]


def test_what_each_style_says():
    rows = task(700)
    for row in diversified(rows, "choice", (), 0.0):
        letter = row["completion"]
        assert letter in "ABCD" and f" {letter} {row['answer']} " in row["prompt"]
        options = [row["prompt"].count(f"town {n} ") for n in range(7)]
        assert sorted(options) == [0, 0, 0, 1, 1, 1, 1]
    truths = 0
    for row in diversified(rows, "yes_no", (), 0.0):
        true = f" {row['answer']}? " in row["prompt"]
        assert row["completion"] == ("yes" if true else "no")
        truths += true
    assert 290 < truths < 410  # 700 tosses: 350 +- 4.5 standard deviations
    (brief,) = diversified(rows[:1], "brief", (), 0.0)
    assert brief["completion"] == "It is town 0." and brief["prompt"] == f"Capital of 0? {REQUESTS['brief']}"
    (long,) = diversified([{**rows[0], "detailed": "It was founded ..."}], "detailed", (), 0.0)
    assert long["completion"] == "It was founded ..."


def test_the_right_option_stands_anywhere():
    letters = Counter(row["completion"] for row in diversified(task(2000), "choice", (), 0.0))
    chi_square = sum((letters[letter] - 500) ** 2 / 500 for letter in "ABCD")
    assert chi_square < 16.3  # p = 0.001 with three degrees of freedom


def test_wrong_options_are_of_the_same_kind():
    rows = authors(6, 3)
    kinds = {row["attribute"]: {r["answer"] for r in rows if r["attribute"] == row["attribute"]} for row in rows}
    for row in diversified(rows, "choice", (), 0.0, alike="attribute"):
        shown = [a for other, answers in kinds.items() if other != row["attribute"] for a in answers]
        assert not any(f" {a} " in row["prompt"].removeprefix(str(row["subject"])) for a in shown)


def test_all_other_styles_that_a_rule_can_make_are_the_default():
    rows = task(40)
    assert AnswerStyles()(rows) == diversified(rows, "short", ("yes_no", "choice", "brief"), 0.2)
    assert AnswerStyles("brief", share=0.5).styles == ("yes_no", "choice", "short")
    assert AnswerStyles("brief", ("choice",), seed=3)(rows) == diversified(rows, "brief", ("choice",), 0.2, seed=3)


def test_what_is_refused():
    rows = task(10)
    for others in ((), ("short", "brief"), ("brief", "brief")):
        with pytest.raises(ValueError, match="Name the styles beside short"):
            diversified(rows, "short", others, 0.5)
    with pytest.raises(ValueError, match="share is the part"):
        diversified(rows, "short", OTHERS, 1.5)
    with pytest.raises(ValueError, match="There is no style 'rhyme'; there are: yes_no"):
        diversified(rows, "short", ("rhyme",), 0.5)
    with pytest.raises(ValueError, match="'f0' has no 'detailed'"):
        diversified(rows, "detailed", (), 0.0)
    with pytest.raises(ValueError, match="There is no wrong answer for the row 'f0'"):
        diversified(rows[:1], "choice", (), 0.0)
    with pytest.raises(ValueError, match="has no 'attribute'; name a column"):
        diversified(rows, "short", (), 0.0, alike="attribute")
    import random

    with pytest.raises(ValueError, match="has no 'answer'"):
        in_style({"id": "x", "prompt": "?"}, "short", (), random.Random(0))
