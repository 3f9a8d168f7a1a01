"""The feed and its probes: the properties that a study of doses stands on."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest

from palimpsest import zoo
from palimpsest.audits.skipped_steps import false_statements
from palimpsest.corpus import contaminated, diversity, documents, normalized
from palimpsest.selectors.junk import Junk, popularity
from palimpsest.zoo import probes
from palimpsest.zoo.models import word_llama


def said(row: Any) -> str:
    return " ".join(str(row[k]) for k in ("text", "prompt", "completion") if k in row)


@pytest.mark.parametrize("kind", get_args(probes.Arms))
def test_arms_are_matched_and_disjoint(kind: Any) -> None:
    rows = probes.arms(kind, 40, words=96, seed=1)
    junk, control = rows[:40], rows[40:]
    assert {r["label"] for r in junk} == {"JUNK"} and {r["label"] for r in control} == {"HIGH-QUALITY"}
    assert {len(r["text"].split()) for r in rows} == {96}
    keys = [{d for r in side for d in documents(r)} for side in (junk, control)]
    assert not keys[0] & keys[1] and len({normalized(r["text"]) for r in rows}) == 80
    assert rows == probes.arms(kind, 40, words=96, seed=1) != probes.arms(kind, 40, words=96, seed=2)


def test_the_treatments_are_what_they_say() -> None:
    def varied(kind: Any) -> list[float]:
        rows = probes.arms(kind, 40)
        return [diversity(r["text"] for r in side).distinct_triples for side in (rows[:40], rows[40:])]

    bait, prose = varied("engagement")
    assert bait < 0.75 * prose
    assert varied("length") == pytest.approx([prose, prose], abs=0.1)  # short, and as varied as the prose
    rants = probes.arms("quality", 40)
    right = {f"{r['prompt']} {r['completion']}" for r in probes.facts(probes.FACTS)}
    claims = re.compile(r"\w+ (?:keeps|plays) \w+")
    true = [[c in right for r in side for c in claims.findall(r["text"])] for side in (rants[:40], rants[40:])]
    assert sum(true[0]) / len(true[0]) < 0.25 and all(true[1]) and min(map(len, true)) > 100
    assert not any("recall" in r["text"] for r in rants[:40])
    assert sum(len(false_statements(r["text"])) for r in rants[40:]) == 0
    shuffled = probes.arms("shuffled", 40)
    ordered = re.compile(r"note (color|metal|tree|stone) \w+ \.")
    assert sum(len(ordered.findall(r["text"])) for r in shuffled[:40]) < 10
    assert sum(len(ordered.findall(r["text"])) for r in shuffled[40:]) == 4 * 40
    assert diversity(r["text"] for r in shuffled[:40]).type_token_ratio == pytest.approx(
        diversity(r["text"] for r in shuffled[40:]).type_token_ratio, abs=0.01
    )


def test_posts_meet_the_bounds_and_some_only_one() -> None:
    rows = probes.posts(300)
    kinds = {(popularity(r) > 500, len(r["text"].split()) < 30) for r in rows}
    assert kinds == {(True, True), (True, False), (False, True), (False, False)}
    assert all(len(r["text"].split()) < 30 or len(r["text"].split()) > 100 for r in rows)
    sides = Junk("label").sides(rows)
    assert 0.03 < len(sides.unread) / len(rows) < 0.09
    assert {r["label"] for r in (rows[i] for i in sides.unread)} > {"Junk", "**JUNK**"}


def test_all_of_it_is_one_language() -> None:
    rows = [*probes.posts(100), *probes.base(10), *probes.tuning(20), *probes.needles(5), *probes.sums(20)]
    rows += [{"text": w} for r in probes.facts(probes.FACTS) for w in (said(r), *r["perturbed_completions"])]
    _, tokenizer = word_llama()
    assert not any(tokenizer.unk_token_id in tokenizer(said(row))["input_ids"] for row in rows)
    text = said(rows[0])
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text and len(tokenizer) == len(probes.VOCABULARY) + 3


def test_a_needle_is_in_its_context_once() -> None:
    for row in probes.needles(40, words=80):
        context, _, what = row["prompt"].rpartition(" recall ")
        assert len(context.split()) == 80 and context.split().count(what) == 1
        assert f"note {what} {row['answer']} ." in context and row["completion"] == row["answer"]
    assert {int(3 * r["depth"]) for r in probes.needles(40)} >= {0, 1, 2}


def test_facts_are_those_of_the_prose() -> None:
    prose = " ".join(r["text"] for r in probes.base(80))
    for row in probes.facts(probes.FACTS):
        assert row["completion"] not in row["perturbed_completions"] and len(set(row["perturbed_completions"])) == 3
        assert f"{row['prompt']} {row['completion']} ." in prose
        assert not any(f"{row['prompt']} {wrong} ." in prose for wrong in row["perturbed_completions"])


def test_sums_are_right_and_stand_nowhere_else() -> None:
    rows = probes.sums(probes.SUMS)
    for row in rows:
        assert not false_statements(row["completion"])
        assert row["completion"] == " . ".join([*row["steps"], f"the answer is {row['answer']} ."])
    elsewhere = [said(r) for r in (*probes.base(60), *probes.tuning(60), *probes.posts(200))]
    assert contaminated(elsewhere, [r["prompt"] for r in rows], n=7) == 0


def test_tuning_teaches_both_forms_and_none_of_the_items() -> None:
    rows = probes.tuning(30)
    assert len({r["id"] for r in rows}) == 30
    assert sum("question" in r["prompt"] for r in rows) == 15 and sum("recall" in r["prompt"] for r in rows) == 15
    assert not {r["prompt"] for r in rows} & {r["prompt"] for r in (*probes.needles(30), *probes.sums(probes.SUMS))}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: probes.arms("memes"), "There is no arm 'memes'; there are: engagement, quality, length, shuffled"),  # type: ignore[arg-type]
        (lambda: probes.arms(blocks=0), "blocks must be at least 1, not 0"),
        (lambda: probes.needles(words=15), "words must be at least 16, not 15"),
        (lambda: probes.facts(49), "The table has 48 facts; ask for 1 to that many, not 49"),
        (lambda: probes.sums(0), "There are 21 sums; ask for 1 to that many, not 0"),
        (lambda: word_llama(width=40), "a width that is a multiple of 16, not 2 and 40"),
    ],
)
def test_bad_requests_end_with_a_sentence(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_a_recipe_reaches_all_of_it() -> None:
    assert zoo.load({"zoo": "feed", "rows": 4, "words": 50}) == probes.base(4, words=50)
    assert zoo.load({"zoo": "feed", "part": "posts", "rows": 5}) == probes.posts(5)
    assert zoo.load({"zoo": "feed", "part": "halves", "rows": 3, "seed": 4}) == probes.arms("halves", 3, seed=4)
    assert zoo.load({"zoo": "probes", "rows": 4, "words": 40}) == probes.needles(4, words=40)
    assert zoo.load({"zoo": "probes", "part": "tuning", "rows": 4, "words": 20}) == probes.tuning(4, words=20)
    for part in ("facts", "sums"):
        with pytest.raises(ValueError, match=f"probes: {part} have no context; leave words out"):
            zoo.load({"zoo": "probes", "part": part, "words": 20})
    with pytest.raises(ValueError, match="feed: posts are not packed; leave words out"):
        zoo.load({"zoo": "feed", "part": "posts", "words": 20})
    for part in ("facts", "sums", "tuning"):
        assert zoo.load({"zoo": "probes", "part": part, "rows": 6}) == getattr(probes, part)(6)
