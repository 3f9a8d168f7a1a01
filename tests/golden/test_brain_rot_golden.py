"""Sorting and parsing against numbers of llm-brain-rot/llm-brain-rot@73daf3b, its faults among them."""

import json
from pathlib import Path

from palimpsest.audits.final_answer import read_answer
from palimpsest.selectors.junk import Junk, take

CASES = {c["what"]: c for c in json.loads(Path(__file__).with_name("brain-rot.json").read_text())["cases"]}


def case(begins):
    return next(c for what, c in CASES.items() if what.startswith(begins))


def test_the_length_split_counts_no_begin_token():
    found = case("length split")
    lengths, outputs = found["inputs"]["content_tokens"], found["outputs"]
    rows = [{"id": str(n), "text": " ".join(f"{n}w{i}" for i in range(n))} for n in lengths]
    sides = Junk("length").sides(rows)
    assert [lengths[i] for i in sides.junk] == outputs["low (junk) keeps content_tokens"]
    released = outputs["high (control) keeps content_tokens"]
    assert released == [100, *(lengths[i] for i in sides.control)]  # with the begin token 100 is more than 100
    again = Junk("length", short=31, count=lambda text: len(text.split()) + 1).sides(rows)
    assert [lengths[i] for i in again.control] == released
    assert [lengths[i] for i in again.junk] == outputs["low (junk) keeps content_tokens"]


def test_labels_of_another_form_are_not_control():
    found = case("token balance")
    inputs, outputs = found["inputs"], found["outputs"]
    rows = [{"id": str(i), "text": f"text {i}", "label": label} for i, label in enumerate(inputs["label"])]
    sides = Junk("label").sides(rows)
    assert list(sides.junk) == [i for i, label in enumerate(inputs["label"]) if label == "JUNK"]
    assert sides.unread == (6, 7)  # Junk and **JUNK**
    assert sorted((*sides.control, *sides.unread)) == outputs["control_indices"]


def test_the_cap_is_not_passed():
    found = case("token balance")
    inputs, outputs, cap = found["inputs"], found["outputs"], found["params"]["cap"]
    junk = [i for i, label in enumerate(inputs["label"]) if label == "JUNK"]
    sizes = [inputs["tokens"][i] for i in junk]
    kept = junk[: take(sizes, cap)]
    assert [*kept, 4] == outputs["junk_indices"]  # the release takes the document that passes the cap
    assert sum(inputs["tokens"][i] for i in kept) == cap == outputs["junk_tokens"] - 1


def test_replies_are_read_or_not_read():
    found = case("parsing of the judge reply")
    released = dict(zip(found["inputs"]["reply"], found["outputs"]["label"]))
    ours = {reply: read_answer(reply, found["params"]["labels"]) or "N/A" for reply in released}
    assert {reply: (released[reply], ours[reply]) for reply in released if released[reply] != ours[reply]} == {
        "The answer is C": ("A", "C"),
        "No clear option": ("C", "N/A"),
        "Answer: D": ("A", "D"),
    }


def test_no_language_is_filtered():
    """The released test of English lets Indonesian through and refuses an accent, an emoji and a curly apostrophe."""
    found = case('the "English" test')
    rows = [{"id": str(i), "text": t, "likes": 900} for i, t in enumerate(found["inputs"]["texts"]) if t]
    assert len(Junk("popularity").sides(rows).junk) == len(rows)
