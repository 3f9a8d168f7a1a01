"""Roles that a term joins are drawn in one order, and rows that do not belong together are refused."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.loop import Training, fit
from palimpsest.objective import Objective, Pairing, Total, evaluate, on
from palimpsest.objectives.balanced_threshold_margin import BalancedThresholdMargin
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.flat import FLAT
from palimpsest.objectives.preference import Preference
from palimpsest.objectives.reweighted import Reweighted
from palimpsest.pairing import check_pairs, leaders
from palimpsest.reference import Copy
from palimpsest.roles import Answers, Roles
from palimpsest.select import Selection
from palimpsest.zoo.models import tiny_llama

Rows = list[dict[str, Any]]
NAMES = ("chosen", "rejected")
PAIRED = on(NAMES, Preference()) + on("other", CrossEntropy())
NUMBER = 11


def answers(word: str, number: int = NUMBER) -> Rows:
    return [{"prompt": f"who is number {i}", "completion": f" {word} {i}"} for i in range(number)]


def data(**changed: Rows) -> Roles:
    rows = {"chosen": answers("yes"), "rejected": answers("no"), "other": answers("so", 7)} | changed
    return Roles(CausalLM(tiny_llama(300, 2, 32)[1]), rows)


def selected(*index: int) -> Selection:
    return Selection(torch.tensor(index), torch.ones(len(index)), torch.zeros(NUMBER))


def prompts(batch: dict[str, Tensor]) -> list[list[int]]:
    """The tokens of each row's prompt."""
    scored = (batch["labels"] != -100).int().argmax(1).tolist()
    return [ids[:start] for ids, start in zip(batch["input_ids"].tolist(), scored, strict=True)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("accumulation", "world"), [(1, 1), (2, 1), (3, 1), (1, 2), (3, 2)])
def test_pairs_share_their_prompt_in_every_window(seed: int, accumulation: int, world: int) -> None:
    roles, whole = data(), data()
    for step in range(6):  # more than three rounds of eleven rows
        split = {"seed": seed, "pairs": PAIRED.pairs}
        windows = [roles.window(step, 6, rank=r, world=world, accumulation=accumulation, **split) for r in range(world)]
        for batch in (batch for window in windows for batch in window):
            assert prompts(batch["chosen"]) == prompts(batch["rejected"])
            assert torch.equal(batch["chosen"]["index"], batch["rejected"]["index"])
        (all_rows,) = whole.window(step, 6, **split)
        parts = [windows[r][m]["rejected"]["index"] for m in range(accumulation) for r in range(world)]
        assert torch.equal(torch.cat(parts), all_rows["rejected"]["index"])


def test_the_first_role_and_the_others_keep_their_own_order() -> None:
    alone, joined = data().window(1, 5, seed=3)[0], data().window(1, 5, seed=3, pairs=PAIRED.pairs)[0]
    for role in ("chosen", "other"):
        assert torch.equal(alone[role]["index"], joined[role]["index"])
    assert not torch.equal(alone["rejected"]["index"], joined["rejected"]["index"])


def test_roles_that_hang_together_have_one_leader() -> None:
    assert leaders([("a", "b"), ("c", "d"), ("e", "e")]) == {"a": "a", "b": "a", "c": "c", "d": "c", "e": "e"}
    assert leaders([("a", "b"), ("c", "d"), ("d", "b")]) == dict.fromkeys("abcd", "a")
    assert leaders([]) == {}


def test_which_terms_join_their_roles() -> None:
    both = ("forget", "retain")
    assert (on(both, FLAT()) + on("forget", CrossEntropy())).pairs == (both,)
    assert Total((on(both, Reweighted(Preference())),)).pairs == (both,)
    assert Total((on(both, BalancedThresholdMargin()),)).pairs == ()
    assert Total((on(both, Reweighted(BalancedThresholdMargin())),)).pairs == ()


class _Watched(Objective):
    """Keeps which rows stood side by side."""

    unit: ClassVar[Any] = "pair"
    arity: ClassVar[int] = 2
    seen: ClassVar[list[tuple[list[int], list[int]]]] = []

    def __call__(self, view: Any, state: nn.Module | None = None) -> Tensor:
        one, two = view
        self.seen.append((one.batch["index"].tolist(), two.batch["index"].tolist()))
        return one.seq_logp - two.seq_logp


class _ByRow(_Watched):
    pairs: ClassVar[Pairing] = "rows"


class _Beside(_Watched):
    pairs: ClassVar[Pairing] = "none"


@pytest.mark.parametrize(("kind", "aligned"), [(_Watched, True), (_ByRow, True), (_Beside, False)])
def test_training_hands_the_rows_over_as_the_objective_says(kind: type[_Watched], aligned: bool) -> None:
    _Watched.seen.clear()
    training = Training(steps=4, batch=6, accumulation=2, lr=1e-4)
    fit(tiny_llama(300, 2, 32)[0], data(), on(NAMES, kind()), training, seed=1)
    assert len(_Watched.seen) == 8
    assert all((one == two) == aligned for one, two in _Watched.seen)


def test_rows_that_another_order_put_side_by_side_are_refused() -> None:
    (batch,) = data().window(0, 5, seed=0)
    model = tiny_llama(300, 2, 32)[0]
    with pytest.raises(
        ValueError, match=r"chosen\+rejected/preference joins row i of 'chosen' with row i of 'rejected'"
    ):
        evaluate(PAIRED, model, batch, reference=Copy(model))


OTHER: list[tuple[Rows, str]] = [
    (
        answers("no", 5),
        r"preference joins row i of 'chosen' with row i of 'rejected', but they have 11 and 5 rows; give",
    ),
    (
        answers("no")[::-1],
        r"their rows 1 answer different prompts, 'who is number 0' and 'who is number 10'; give both",
    ),
    ([*answers("no")[:7], *answers("no")[8:], answers("no")[7]], r"their rows 8 answer different prompts, 'who is"),
]


@pytest.mark.parametrize(("rejected", "says"), OTHER, ids=["fewer", "reversed", "one at another place"])
def test_rows_that_do_not_belong_together_are_refused(rejected: Rows, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        fit(tiny_llama(300, 2, 32)[0], data(rejected=rejected), PAIRED, Training(steps=1, batch=2))


def conversation(question: str, answer: str) -> dict[str, Any]:
    spoken = [("user", "hello"), ("assistant", "yes?"), ("user", question), ("assistant", answer)]
    return {"messages": [{"role": role, "content": content} for role, content in spoken]}


def test_of_messages_all_but_the_last_are_the_prompt() -> None:
    chosen, rejected = ([conversation(f"number {i}?", word) for i in range(3)] for word in ("yes", "no"))
    training = Training(steps=1, batch=3, lr=1e-4)
    adapter = CausalLM(tiny_llama(300, 2, 32)[1], chat_template="chatml")
    fit(tiny_llama(300, 2, 32)[0], adapter.roles(chosen=chosen, rejected=rejected), on(NAMES, FLAT()), training)
    with pytest.raises(ValueError, match=r"flat joins .* their rows 1 answer different prompts, .*; give both"):
        fit(
            tiny_llama(300, 2, 32)[0],
            adapter.roles(chosen=chosen, rejected=rejected[::-1]),
            on(NAMES, FLAT()),
            training,
        )


def test_other_prompts_are_the_matter_of_an_objective_that_says_so() -> None:
    training = Training(steps=1, batch=2, lr=1e-4)
    fit(tiny_llama(300, 2, 32)[0], data(rejected=answers("no")[::-1]), on(NAMES, _ByRow()), training)
    with pytest.raises(ValueError, match=r"_ByRow joins .* have 11 and 5 rows"):
        fit(tiny_llama(300, 2, 32)[0], data(rejected=answers("no", 5)), on(NAMES, _ByRow()), training)


def test_a_selection_of_one_of_two_joined_roles_is_refused() -> None:
    roles = data()
    roles.selections["chosen"] = selected(4, 1, 7)
    with pytest.raises(ValueError, match="not the same rows of both are selected; select the same"):
        roles.window(0, 3, seed=0, pairs=[NAMES])
    roles.selections["rejected"] = selected(4, 1, 7)
    (batch,) = roles.window(0, 3, seed=0, pairs=[NAMES])
    assert sorted(batch["chosen"]["index"].tolist()) == [1, 4, 7]
    assert torch.equal(batch["chosen"]["index"], batch["rejected"]["index"])


def test_a_role_made_from_another_is_drawn_with_it_and_with_what_that_is_joined_with() -> None:
    rows = {"chosen": answers("yes"), "rejected": answers("no")}
    refusal = {"refusal": Answers("rejected", "completion", (" never", " ask me not"))}
    roles = Roles(CausalLM(tiny_llama(300, 2, 32)[1]), rows, answers=refusal)
    total = on(("chosen", "refusal"), Preference()) + on(("refusal", "rejected"), FLAT())
    (batch,) = roles.window(2, 4, seed=5, pairs=total.pairs)
    assert prompts(batch["chosen"]) == prompts(batch["refusal"]) == prompts(batch["rejected"])
    roles.rows["chosen"].reverse()
    with pytest.raises(
        ValueError, match="row i of 'chosen' with row i of 'refusal', but their rows 1 answer different"
    ):
        check_pairs(total, roles.rows, roles.answers)
