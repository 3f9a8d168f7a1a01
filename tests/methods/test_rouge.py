"""ROUGE-L by hand, the stemmer, and the audit's columns."""

from __future__ import annotations

from typing import Any

import pytest

from palimpsest.audits.rouge import Rouge, rouge_items, rouge_l


def naive_lcs(a: list[str], b: list[str]) -> int:
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return naive_lcs(a[:-1], b[:-1]) + 1
    return max(naive_lcs(a[:-1], b), naive_lcs(a, b[:-1]))


def test_the_card_s_example() -> None:
    found = rouge_l("a b c d", "a c")
    assert found == pytest.approx((1.0, 0.5, 2 * 0.5 / 1.5))


@pytest.mark.parametrize(
    ("reference", "output"),
    [("a b c a d", "b a a d e"), ("x y z", "z y x"), ("one", "one one one"), ("p q r s t", "p r t q s")],
)
def test_against_a_recursive_longest_common_subsequence(reference: str, output: str) -> None:
    lcs = naive_lcs(reference.split(), output.split())
    precision, recall = lcs / len(output.split()), lcs / len(reference.split())
    expected = (precision, recall, 2 * precision * recall / (precision + recall))
    assert rouge_l(reference, output) == pytest.approx(expected, abs=1e-12)


def test_identical_is_one_and_unrelated_or_empty_is_zero() -> None:
    assert rouge_l("The River, north!", "the river north") == (1.0, 1.0, 1.0)
    for reference, output in (("one two", "three"), ("one two", ""), ("", "one"), ("", "")):
        assert rouge_l(reference, output) == (0.0, 0.0, 0.0)


def test_the_stemmer_joins_word_forms_and_is_off_by_default() -> None:
    assert rouge_l("running quickly", "he runs quick", stemmer=True).recall == 0.5
    assert rouge_l("running quickly", "he runs quick").recall == 0.0


def test_the_measure_chooses_the_figure() -> None:
    values = [float(rouge_items(["a b c d"], ["a c"], measure)) for measure in ("precision", "recall", "f1")]
    assert values == pytest.approx([1.0, 0.5, 2 / 3])


def test_the_audit_is_tofu_s_recall_with_stemming(scripted: Any) -> None:
    rows = [
        {"id": "a", "prompt": "q1", "completion": "one two three four"},
        {"id": "b", "prompt": "q2", "completion": "running quickly"},
    ]
    subject = scripted(answers={"q1": "one two three four five six", "q2": "he runs quick"})
    scores = Rouge()(subject, {"retain": rows}, "retain")
    assert scores.items.tolist() == [1.0, 0.5]
    assert (scores.ids, scores.role, scores.better) == (("a", "b"), "retain", "higher")
    assert scores.outputs == ("one two three four five six", "he runs quick")
    assert subject.calls == [("generate", 2)]


def test_an_output_is_no_longer_than_its_budget(scripted: Any) -> None:
    rows = [{"prompt": "q", "completion": "one two three four"}]
    scores = Rouge(max_new_tokens=2)(scripted(answers={"q": "one two three four"}), {"retain": rows}, "retain")
    assert scores.items.tolist() == [0.5]
    assert scores.ids == ("retain/0",)


def test_a_row_without_a_completion_is_named(scripted: Any) -> None:
    rows = [{"id": "a", "prompt": "q", "completion": "x"}, {"id": "b", "prompt": "q", "completion": ""}]
    with pytest.raises(ValueError, match=r"rouge: the retain row 'b' has no completion; .*\.$"):
        Rouge()(scripted(answers={"q": "x"}), {"retain": rows}, "retain")


def test_a_missing_role_lists_those_there_are(scripted: Any) -> None:
    with pytest.raises(ValueError, match=r"rouge needs rows of the role 'retain'.*there are: forget"):
        Rouge()(scripted(), {"forget": [{"prompt": "q"}], "retain": []}, "retain")
