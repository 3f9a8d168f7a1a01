"""The made-up worlds on which claims are tested: what is forgotten, kept and never seen, and how it is counted."""

from __future__ import annotations

import pytest
import torch

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.claims import _facts, _news
from palimpsest.claims._facts import REFUSAL, Facts, Trajectory, World, decoder, recall, unlearned, word_tokenizer
from palimpsest.claims._news import News, Readers, reinforced, taken, unlearn
from palimpsest.loop import Progress
from palimpsest.objective import on
from palimpsest.objectives.gradient_ascent import GradientAscent
from palimpsest.procedures.request_sweep import check_disjoint

SMALL = World(subjects=20, relations=2, strangers=2, values=10, layers=1, width=32)


def facts(seed=0):
    """A decoder that knows nothing."""
    model = decoder(len(SMALL.words), SMALL.layers, SMALL.width, seed)
    return Facts(SMALL, model, CausalLM(word_tokenizer(SMALL.words)), 0.0)


def test_the_parts_of_a_world_share_nothing_and_lose_nothing():
    check_disjoint([SMALL.forget, SMALL.retain, SMALL.unseen, SMALL.refused])
    parts = [*SMALL.forget, *SMALL.retain, *SMALL.unseen]
    assert sorted(row["id"] for row in parts) == sorted(row["id"] for row in SMALL.known)
    assert {row["id"].split("/")[0] for row in SMALL.forget} == {"s0", "s1"}, "a tenth of the subjects, whole"
    assert abs(len(SMALL.retain) - len(SMALL.unseen)) <= 1
    assert SMALL.known == World(subjects=20, relations=2, strangers=9, values=10).known, "the facts are always the same"


@pytest.mark.parametrize("world", [SMALL, *_facts.SIZES.values()])
def test_every_word_of_a_world_is_a_token(world):
    tokenizer = word_tokenizer(world.words)
    rows = [*world.known, *world.refused]
    for row in (rows[0], rows[-1], world.known[-1]):
        ids = tokenizer(f"{row['prompt']} {row['completion']}")["input_ids"]
        assert len(ids) == 5 and tokenizer.unk_token_id not in ids
    assert len(tokenizer) == len(world.words) + 2
    assert all(len(row["completion"].split()) == 3 for row in rows) and len(REFUSAL.split()) == 3


def test_recall_is_the_greedy_answer_word_for_word():
    known = facts()
    rows = [{"id": "a", "prompt": "s0 r0", "completion": "v1 v2 v3"}]
    said = known.adapter.subject(known.model).generate(rows, 3)[0]
    assert recall(known.adapter, known.model, rows).items.tolist() == [0.0]
    right = recall(known.adapter, known.model, [{**rows[0], "completion": said}])
    assert right.items.tolist() == [1.0] and right.ids == ("a",)


def progress(step):
    return Progress(step, 9, {"forget/x": -0.5 * step, "retain/y": 7.0}, 2.0 * step)


def test_a_trajectory_remembers_when_each_fact_was_first_lost():
    known, rows = facts(), SMALL.forget[:3]
    ids = [row["id"] for row in rows]
    run = Trajectory(known.model)
    template = recall(known.adapter, known.model, rows)
    for step, items in enumerate([[1, 1, 1], [1, 0, 1], [0, 1, 1]], 1):
        scores = type(template)("recall", torch.tensor(items, dtype=torch.float64), template.ids)
        run.note(progress(step), scores, measuring=0.5)
    assert run.lost == {ids[1]: 2, ids[0]: 3}
    assert run.steps_lost(rows, 9).items.tolist() == [3.0, 2.0, 10.0], (
        "a fact that is never lost counts all steps and one"
    )
    assert run.steps == 3 and run.seconds == 5.5 and run.losses == [-0.5, -1.0, -1.5]
    assert run.forget == pytest.approx([1.0, 2 / 3, 2 / 3])


def test_unlearning_ends_when_forgotten_and_leaves_the_decoder_alone():
    known = facts()
    before = {name: value.clone() for name, value in known.model.state_dict().items()}
    objective = on("forget", GradientAscent())
    run = unlearned(known, objective, lr=1e-3, steps=3, seed=0)  # it knows nothing, so one step is enough
    assert run.reached and run.steps == 1 and not run.model.training
    full = unlearned(known, objective, lr=1e-3, steps=3, seed=0, target=-1.0)
    assert not full.reached and full.steps == 3 and len(full.losses) == 3 and full.losses[2] < full.losses[0]
    assert all(torch.equal(value, before[name]) for name, value in known.model.state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in full.model.state_dict().items())


PAPER = News(forget=4, retain=3, utility=3, holdout=4, values=10, layers=1, width=32)


def test_the_parts_of_the_news_share_no_article():
    parts = ("forget", "retain", "utility", "holdout")
    check_disjoint([PAPER.texts(part) for part in parts])
    assert [len(PAPER.texts(part)) for part in parts] == [4, 3, 3, 4]
    tokenizer = word_tokenizer(PAPER.words)
    for part in parts:
        for row in PAPER.prints(part):
            ids = tokenizer(row["text"])["input_ids"]
            assert len(ids) == _news._SCORED + 1 and tokenizer.unk_token_id not in ids


def test_every_question_is_answered_by_its_article():
    texts = {row["id"]: row["text"] for row in PAPER.texts("forget")}
    asked = PAPER.asked("forget")
    assert len(asked) == 8 and PAPER.about(PAPER.texts("forget")) == asked
    printed = {row["text"] for row in PAPER.prints("forget")}
    for row in asked:
        sentence = f"{row['prompt']} {row['completion']} ."
        assert sentence in texts[row["id"].split("/")[0]]
        assert any(text.startswith(sentence) for text in printed), "asked in the place where it was printed"


@pytest.mark.parametrize("method", _news.METHODS)
def test_the_checkpoint_rule_stops_the_first_epoch_that_is_low_enough(method, monkeypatch):
    model = decoder(len(PAPER.words), 1, 32, 0)
    read = Readers(PAPER, CausalLM(word_tokenizer(PAPER.words)), model, model)
    curve = iter([0.3, 0.9, 0.5, 0.3, 0.1])  # first the retrained model's, then an epoch each
    asked = []

    def knowledge(self, model, questions):
        asked.append(len(questions))
        return type("Scores", (), {"items": torch.tensor([next(curve)], dtype=torch.float64)})()

    monkeypatch.setattr(Readers, "knowledge", knowledge)
    unlearn(read, method, decoder(len(PAPER.words), 1, 32, 1), PAPER.texts("forget"), lr=1e-4, epochs=4, seed=0)
    assert asked == [8] * 4, "the rule is met by the third epoch, and no fourth is trained"


@pytest.mark.parametrize("method", _news.REINFORCED)
def test_the_first_alpha_that_forgets_enough_is_taken_and_the_target_is_left_alone(method, monkeypatch):
    target, retrained = (decoder(len(PAPER.words), 1, 32, seed) for seed in (0, 1))
    read = Readers(PAPER, CausalLM(word_tokenizer(PAPER.words)), target, retrained)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    rows = PAPER.texts("forget")
    twin = reinforced(read, rows, lr=1e-2, epochs=2, seed=0)
    assert not twin.training and any(not torch.equal(v, before[n]) for n, v in twin.state_dict().items())
    for curve, alpha in (([0.3, 0.9, 0.5, 0.3], 4.0), ([0.3, 0.9, 0.9, 0.9, 0.9, 0.9], 16.0)):
        values = iter(curve)  # first the retrained model's, then an alpha each

        def knowledge(self, model, questions, values=values):
            return type("Scores", (), {"items": torch.tensor([next(values)], dtype=torch.float64)})()

        with monkeypatch.context() as patched:
            patched.setattr(Readers, "knowledge", knowledge)
            left = taken(read, method, twin, rows)
        assert left.alpha == alpha and next(values, None) is None
        untouched = read.leakage(target).items
        with left.answering() as model:
            assert not torch.equal(read.leakage(model).items, untouched)
    assert all(torch.equal(v, before[n]) for n, v in target.state_dict().items())
