"""Which posts are junk and which control, by the strict bounds, and doses that are nested and of equal length."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest import names
from palimpsest.corpus import pack
from palimpsest.selectors.junk import Junk, judged, popularity, take
from palimpsest.zoo.probes import posts

DOSES = (0.0, 0.2, 0.5, 0.8, 1.0)


def post(key: object, length: int, likes: int) -> dict[str, Any]:
    return {"id": str(key), "text": " ".join(f"{key}w{i}" for i in range(length)), "likes": likes}


TABLE = [post(f"{n}/{likes}", n, likes) for n, likes in itertools.product((29, 30, 100, 101), (500, 501))]


def ids(data: Any, places: Any) -> set[str]:
    return {data[int(i)]["id"] for i in places}


@pytest.mark.parametrize(
    ("rule", "junk", "control"),
    [
        ("engagement", {"29/501"}, {"101/500"}),
        ("length", {"29/500", "29/501"}, {"101/500", "101/501"}),
        ("popularity", {f"{n}/501" for n in (29, 30, 100, 101)}, {f"{n}/500" for n in (29, 30, 100, 101)}),
    ],
)
def test_the_bounds_are_strict(rule: Any, junk: set[str], control: set[str]) -> None:
    sides = Junk(rule).sides(TABLE)
    assert ids(TABLE, sides.junk) == junk and ids(TABLE, sides.control) == control
    assert sides.repeated == sides.unread == ()


def test_popularity_is_the_sum_of_what_is_there() -> None:
    assert popularity({"likes": 400, "retweets": 60, "replies": 40, "quotes": "1"}) == 501
    assert popularity({"popularity": 3, "likes": 400}) == 3
    with pytest.raises(ValueError, match="the row 'x' has neither popularity nor any of likes, retweets"):
        Junk().sides([{"id": "x", "text": "a"}])


def test_labels_that_are_not_one_of_the_two_words_are_dropped_and_told() -> None:
    replies = ["JUNK", " JUNK\n", "HIGH-QUALITY", "Junk", "**JUNK**", "HIGH QUALITY", "I cannot judge this.", "", None]
    assert [judged(r) for r in replies] == [1, 1, -1, None, None, None, None, None, None]
    rows = [{"text": f"text {i}", "label": r} for i, r in enumerate(replies)]
    sides = Junk("label").sides(rows)
    assert (sides.junk, sides.control, sides.unread) == ((0, 1), (2,), (3, 4, 5, 6, 7, 8))


def test_repeated_texts_are_taken_once() -> None:
    rows = [post("a", 5, 900), {**post("a", 5, 900), "id": "again"}, post("b", 120, 0)]
    sides = Junk().sides(rows)
    assert (sides.junk, sides.control, sides.repeated) == ((0,), (2,), (1,))


def test_take_stops_before_it_passes_the_cap() -> None:
    assert take([3, 3, 3], 6) == 2 and take([3, 3, 3], 8.9) == 2 and take([9, 1], 5) == 0 and take([], 5) == 0


def test_another_token_counter_moves_the_bounds() -> None:
    rows = [post("a", 20, 900), post("b", 60, 0)]
    assert Junk(short=21, long=59).sides(rows).junk == (0,)
    assert Junk(short=21, long=59, count=lambda text: 2 * len(text.split())).sides(rows).junk == ()


def tokens(data: Any, places: Any) -> int:
    return sum(len(data[int(i)]["text"].split()) for i in places)


@given(st.integers(0, 5), st.integers(700, 2000))
@settings(max_examples=8, deadline=None)
def test_doses_hold_their_share_their_total_and_one_another(seed: int, total: int) -> None:
    data = posts(300, seed=1)
    longest = 130
    before: tuple[set[str], set[str]] = (set(), {row["id"] for row in data})
    for dose in DOSES:
        found = Junk(dose=dose, tokens=total, seed=seed)(data)
        junk = [i for i in found.index.tolist() if found.score[i] > 0]
        control = [i for i in found.index.tolist() if found.score[i] < 0]
        assert abs(tokens(data, junk) - dose * total) < longest
        assert total - longest < tokens(data, found.index) <= total
        assert (not junk or dose > 0) and (not control or dose < 1)
        assert before[0] <= ids(data, junk) and ids(data, control) <= before[1]  # more junk, less control
        before = ids(data, junk), ids(data, control)


def test_packed_doses_have_the_same_number_of_rows_and_the_exact_share() -> None:
    data = posts(500)
    sides = Junk().sides(data)
    blocks = [
        {**row, "label": label}
        for places, label in ((sides.junk, "JUNK"), (sides.control, "HIGH-QUALITY"))
        for row in pack([data[i] for i in places], 64, name=label)[:20]
    ]
    for dose in DOSES:
        found = Junk("label", dose=dose)(blocks)
        assert len(found.index) == 20
        assert sum(found.score[i] > 0 for i in found.index.tolist()) == round(20 * dose)


def test_the_pure_arms_are_the_two_sides() -> None:
    sides = Junk("label").sides(
        blocks := [{"text": f"t{i}", "label": "JUNK" if i % 2 else "HIGH-QUALITY"} for i in range(8)]
    )
    assert set(Junk("label", dose=1)(blocks).index.tolist()) == set(sides.junk)
    assert set(Junk("label", dose=0)(blocks).index.tolist()) == set(sides.control)


def test_a_seed_gives_one_order_and_another_seed_another() -> None:
    data = posts(300)
    first, again, other = (Junk(dose=0.5, tokens=400, seed=s)(data).index.tolist() for s in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"dose": 1.5}, r"dose is a share in \[0, 1\], not 1.5\."),
        ({"dose": float("nan")}, r"dose is a share"),
        ({"tokens": 0}, r"tokens must be at least 1, not 0\."),
        ({"short": 102}, r"short 102 and long 100 would put a document on both sides; lower short\."),
    ],
)
def test_bad_settings_end_with_a_sentence(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Junk(**fields)


def test_a_side_that_is_too_small_is_named() -> None:
    with pytest.raises(ValueError, match="The junk side has 29 tokens, but a dose needs 50; give it more rows"):
        Junk(tokens=50)(TABLE)
    with pytest.raises(ValueError, match="The control side has 0 tokens, but a dose needs 1"):
        Junk()([post("a", 5, 900)])
    with pytest.raises(ValueError, match="the row 'x' has no text"):
        Junk()([{"id": "x", "text": " ", "likes": 1}])


def test_it_builds_from_a_recipe() -> None:
    junk = names.build({"junk": {"by": "label", "dose": 0.2}}, "selectors")
    assert junk == Junk("label", 0.2) and names.build(names.dump(junk), "selectors") == junk
