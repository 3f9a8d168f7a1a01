"""Fictitious authors: unique names, certain facts, splits that share nobody."""

from __future__ import annotations

from itertools import pairwise

import pytest

from palimpsest.zoo import load
from palimpsest.zoo.authors import ATTRIBUTES, REFUSALS, articles, author, authors, holdout, split
from palimpsest.zoo.values import VALUES

MANY = authors(400, 12, seed=3)


def test_rows_have_unique_ids_in_the_order_of_people_and_attributes() -> None:
    rows = authors(12, 4)
    assert [row["id"] for row in rows[:5]] == [
        *("author-000/birthplace", "author-000/birth_year", "author-000/profession", "author-000/genre"),
        "author-001/birthplace",
    ]
    assert len({row["id"] for row in MANY}) == 400 * 12


@pytest.mark.parametrize("seed", [0, 1, 17])
def test_names_are_unique_for_authors_and_holdout_together(seed: int) -> None:
    names = [author(number, seed=seed).name for number in range(20_000)]
    assert len(set(names)) == 20_000


def test_a_smaller_request_is_a_prefix_of_a_larger_one() -> None:
    few, many = authors(5, 3, seed=7), authors(50, 10, seed=7)
    by_id = {row["id"]: row for row in many}
    assert all(by_id[row["id"]] == row for row in few)
    assert articles(3, seed=7) == articles(30, seed=7)[:3]


def test_the_same_seed_gives_the_same_rows_and_another_seed_other_people() -> None:
    assert authors(20, 12, seed=5) == authors(20, 12, seed=5)
    assert [row["subject"] for row in authors(20, 1, seed=5)] != [row["subject"] for row in authors(20, 1, seed=6)]


def test_the_first_author_of_seed_zero_is_pinned() -> None:
    """Seeding by text does not depend on the process or its hash seed, so results can be compared between machines."""
    row = authors(1, 1)[0]
    assert (row["subject"], row["answer"]) == ("Alwen Candleby", "Porto, Portugal")
    assert row["prompt"] == "Where was Alwen Candleby born?"
    assert row["completion"] == "Alwen Candleby was born in Porto, Portugal."


def test_the_answer_stands_once_in_both_completions_and_not_in_the_questions() -> None:
    for row in MANY:
        assert row["completion"].count(row["answer"]) == 1
        assert row["paraphrased_completion"].count(row["answer"]) == 1
        assert row["answer"] not in row["prompt"] + row["paraphrased_prompt"]
        assert row["subject"] in row["prompt"] and row["subject"] in row["paraphrased_prompt"]


def test_wrong_answers_differ_only_in_the_value_and_never_contain_the_true_one() -> None:
    articles_of = {"a", "an"}
    for row in MANY:
        for true, wrong in (
            ("completion", "perturbed_completions"),
            ("paraphrased_completion", "perturbed_paraphrases"),
        ):
            assert len(set(row[wrong])) == 3
            assert not any(row["answer"].casefold() in sentence.casefold() for sentence in row[wrong])
            before, after = row[true].split(row["answer"])
            frame = [word for word in before.split() if word not in articles_of]
            for sentence in row[wrong]:
                assert [word for word in sentence.split() if word not in articles_of][: len(frame)] == frame
                assert sentence.endswith(after)


def test_no_value_contains_another_of_its_list() -> None:
    for values in VALUES.values():
        ordered = sorted(map(str.casefold, values))
        assert len(set(ordered)) == len(values)
        assert not [(a, b) for a in ordered for b in ordered if a != b and a in b]


def test_questions_and_answers_are_short() -> None:
    assert max(len(row["prompt"].split()) for row in MANY) <= 14
    assert max(len(row["completion"].split()) for row in MANY) <= 16


def test_two_authors_rarely_share_a_fact_set() -> None:
    sets = {tuple(author(i).facts[key] for key in ATTRIBUTES[:4]) for i in range(5000)}
    assert len(sets) >= 4990


def test_the_mother_has_another_profession_and_neither_is_a_wrong_answer() -> None:
    for number in range(2000):
        facts = author(number).facts
        assert facts["mother"] != facts["profession"]
    rows = {row["id"]: row for row in MANY}
    for i in range(400):
        own, mother = rows[f"author-{i:03d}/profession"], rows[f"author-{i:03d}/mother"]
        assert not any(mother["answer"] in sentence for sentence in own["perturbed_completions"])
        assert not any(own["answer"] in sentence for sentence in mother["perturbed_completions"])


@pytest.mark.parametrize(("forget", "people"), [(3, 3), (0.25, 3), (0.01, 1), (11, 11)])
def test_split_is_disjoint_by_subject_and_complete(forget: float, people: int) -> None:
    rows = authors(12, 4)
    gone, kept = split(rows, forget, seed=2)
    assert len({row["subject"] for row in gone}) == people
    assert not {row["subject"] for row in gone} & {row["subject"] for row in kept}
    assert sorted(row["id"] for row in gone + kept) == [row["id"] for row in sorted(rows, key=lambda r: r["id"])]
    assert (gone, kept) == split(rows, forget, seed=2)


def test_split_by_another_key() -> None:
    gone, kept = split(authors(3, 4), 1, by="attribute")
    assert len({row["attribute"] for row in gone}) == 1 and len({row["attribute"] for row in kept}) == 3


@pytest.mark.parametrize("forget", [0, 12, 0.0, 1.0, 1.5, -1])
def test_split_refuses_an_empty_side(forget: float) -> None:
    with pytest.raises(ValueError, match="forget"):
        split(authors(12, 1), forget)


def test_split_names_the_keys_when_by_is_missing() -> None:
    with pytest.raises(ValueError, match=r"author-000/birthplace.*'topic'.*subject"):
        split(authors(2, 1), 1, by="topic")


def test_holdout_shares_no_name_with_any_author_of_the_seed() -> None:
    taught = {author(i, seed=1).name for i in range(5000)}
    rows = holdout(100, 2, seed=1)
    assert not taught & {row["subject"] for row in rows}
    assert rows[0]["id"] == "holdout-000/birthplace" and len({row["id"] for row in rows}) == 200


def test_articles_state_every_fact_once_in_60_to_120_words() -> None:
    for i, row in enumerate(articles(500, seed=4)):
        who = author(i, seed=4)
        assert row["id"] == f"author-{i:03d}/article" and row["subject"] == who.name
        assert 60 <= len(row["text"].split()) <= 120
        assert all(row["text"].count(value) == 1 for value in who.facts.values())
    assert len({row["text"] for row in articles(500, seed=4)}) == 500


def test_people_from_a_number_on_are_those_of_the_whole() -> None:
    assert authors(3, 2, first=4) == authors(7, 2)[8:]
    assert articles(3, first=4) == articles(7)[4:] and holdout(2, 1, first=1) == holdout(3, 1)[1:]
    questions = load({"zoo": "authors", "people": 3, "first": 4, "part": "retain", "forget": 1})
    assert {row["id"] for row in questions} < {row["id"] for row in authors(3, first=4)} and len(questions) == 8
    for first, people in ((-1, 3), (9_999, 2)):
        with pytest.raises(ValueError, match="people is 1 to 10000"):
            authors(people, first=first)


def test_versions_of_an_article_state_the_same_facts_otherwise() -> None:
    rows = articles(4, first=2, versions=3)
    assert rows[:4] == articles(4, first=2) and [row["id"] for row in rows[4:6]] == [
        "author-002/article-2",
        "author-003/article-2",
    ]
    assert len({row["text"] for row in rows}) == len({row["id"] for row in rows}) == 12
    for row in rows:
        assert all(value in row["text"] for value in author(int(row["id"][7:10])).facts.values())
    with pytest.raises(ValueError, match="versions is at least 1"):
        articles(1, versions=0)
    with pytest.raises(ValueError, match="questions have one version"):
        load({"zoo": "authors", "versions": 2})


def test_shuffled_articles_have_the_words_of_the_good_ones() -> None:
    good = articles(3, versions=2)
    noise = load({"zoo": "authors", "part": "shuffled_articles", "people": 3, "versions": 2})
    assert [row["id"] for row in noise] == [row["id"].replace("article", "shuffled") for row in good]
    for one, other in zip(good, noise, strict=True):
        assert sorted(one["text"].split()) == sorted(other["text"].split()) and one["text"] != other["text"]


def test_articles_of_different_authors_share_few_sentences() -> None:
    """Verbatim memorization must be about the author, so the frame around the facts varies."""
    texts = [row["text"].replace(row["subject"], "X") for row in articles(50)]
    starts = [text.split(". ")[0].split()[:4] for text in texts]
    assert sum(a == b for a, b in pairwise(starts)) <= 10


@pytest.mark.parametrize(("people", "facts"), [(0, 4), (10_001, 4), (3, 0), (3, 13)])
def test_requests_out_of_range_are_refused(people: int, facts: int) -> None:
    with pytest.raises(ValueError, match="is 1 to"):
        authors(people, facts)


def test_there_are_sixty_different_refusals() -> None:
    assert len(REFUSALS) >= 60 and len(set(REFUSALS)) == len(REFUSALS)
    assert all(2 <= len(line.split()) <= 16 and line.endswith(".") and line == line.strip() for line in REFUSALS)
    openings = [" ".join(line.split()[:2]) for line in REFUSALS]
    assert max(openings.count(opening) for opening in openings) <= 6


# -- through a recipe's mapping


def test_load_gives_the_parts_of_one_population() -> None:
    spec = {"zoo": "authors", "people": 12, "facts": 4, "forget": 3, "seed": 0}
    parts = {part: load({**spec, "part": part}) for part in ("all", "forget", "retain", "holdout")}
    assert {part: len(rows) for part, rows in parts.items()} == {"all": 48, "forget": 12, "retain": 36, "holdout": 48}
    assert parts["all"] == authors(12, 4)
    assert {row["id"] for row in parts["forget"]} | {row["id"] for row in parts["retain"]} == {
        row["id"] for row in parts["all"]
    }


def test_load_splits_questions_and_articles_between_the_same_people() -> None:
    spec = {"zoo": "authors", "people": 20, "forget": 0.2, "seed": 9}
    for part in ("forget", "retain"):
        questions, texts = load({**spec, "part": part}), load({**spec, "part": f"{part}_articles"})
        assert {row["subject"] for row in questions} == {row["subject"] for row in texts}
    assert load({**spec, "part": "articles"}) == articles(20, seed=9)
    assert load({**spec, "part": "holdout_articles"}) == articles(20, seed=9, part="holdout")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"zoo": "author"}, r"^roles\.forget: The zoo has no data set 'author'; did you mean 'authors'"),
        ({"zoo": "xyz"}, r"there are: authors, corpus, general_text, instructions, refusals, digits, feed, probes\.$"),
        ({"part": "forget"}, r"name a data set of the zoo, such as \{zoo: authors\}"),
        ({"zoo": "authors", "part": "test"}, r"authors has no part 'test'; there are: all, forget, retain, holdout"),
        (
            {"zoo": "authors", "peple": 3},
            r"authors has no option 'peple'; there are: part, people, first, facts, versions, forget, seed",
        ),
        ({"zoo": "refusals", "rows": 3}, r"refusals has no option 'rows'; there are: none"),
        ({"zoo": "authors", "people": "12"}, r"^roles\.forget: authors\.people is a whole number, not '12'"),
        ({"zoo": "authors", "people": True}, r"authors\.people is a whole number, not True"),
        ({"zoo": "authors", "facts": 99}, r"^roles\.forget: authors: facts is 1 to 12, not 99"),
        ({"zoo": "authors", "part": "forget", "forget": 12}, r"authors: forget=12 of 12 subjects leaves a side empty"),
    ],
)
def test_load_refuses_with_one_sentence_that_names_the_place(spec: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, LookupError), match=message) as caught:
        load(spec, place="roles.forget")
    assert "\n" not in str(caught.value)


def test_load_refusals_are_rows() -> None:
    rows = load({"zoo": "refusals"})
    assert [row["text"] for row in rows] == list(REFUSALS) and len({row["id"] for row in rows}) == len(REFUSALS)
