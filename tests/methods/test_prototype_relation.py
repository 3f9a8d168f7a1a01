"""PRD: what moves prototypes and encoder, the two softmaxes, what goes from stage to stage, and how it predicts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.audits.accuracy import Accuracy
from palimpsest.audits.task_accuracy import TaskAccuracy
from palimpsest.augment import Augment
from palimpsest.loop import Training, fit
from palimpsest.objective import evaluate, on
from palimpsest.objectives.prototype_relation import (
    PrototypeRelation,
    Prototypes,
    cosine_scores,
    over_classes,
    over_samples,
    prototype_pull,
)
from palimpsest.objectives.supervised_contrastive import SupervisedContrastive
from palimpsest.reference import Copy
from palimpsest.roles import Derived, Roles

DOUBLE = torch.float64
VIEWS = ("one", "two")
AXES = pytest.mark.parametrize("divergence", [over_classes, over_samples])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def sample(seed=0, rows=5, classes=3, width=4):
    """features, prototypes, and both before."""
    return tuple(normal(n, width, seed=10 * seed + i) for i, n in enumerate((rows, classes, rows, classes)))


# L_D


def test_both_axes_by_hand():
    """Oracle 2."""
    old_features, features = torch.tensor([[1.0, 0], [0, 2], [1, 1]]), torch.tensor([[1.0, 0], [1, 1], [0, 1]])
    old, new = torch.tensor([[2.0, 0], [0, 1]]), torch.tensor([[1.0, 0], [0, 3]])
    assert over_classes(features, new, old_features, old, 1.0).mean().item() == pytest.approx(0.149309, abs=1e-6)
    assert over_samples(features, new, old_features, old, 1.0).mean().item() == pytest.approx(0.193293, abs=1e-6)


@AXES
def test_nothing_to_keep_is_zero_and_lengths_do_not_matter(divergence):
    """Oracle 3."""
    features, prototypes, before, old = sample()
    assert float(divergence(before, old, before, old, 0.7).abs().max()) < 1e-14
    value = divergence(features, prototypes, before, old, 0.7)
    lengths = torch.tensor([[0.1], [3.0], [50.0]], dtype=DOUBLE)
    torch.testing.assert_close(divergence(features, prototypes * lengths, before, old * lengths.flip(0), 0.7), value)
    assert float(value.mean()) > 0
    assert (over_classes(features, prototypes, before, old, 0.7) >= 0).all()


def test_a_stage_of_one_class_has_no_relation_over_classes_but_one_over_samples():
    features, prototypes, before, old = sample(classes=1)
    assert not over_classes(features, prototypes, before, old, 1.0).any()
    assert float(over_samples(features, prototypes, before, old, 1.0).mean()) > 0.01


@AXES
def test_finite_differences(divergence):
    """Oracle 8: gradients reach the encoder and the old prototypes."""
    features, prototypes, before, old = sample()
    features.requires_grad_(), prototypes.requires_grad_()
    assert torch.autograd.gradcheck(lambda f, p: divergence(f, p, before, old, 0.7), (features, prototypes))


@AXES
def test_features_and_prototypes_turned_together(divergence):
    """Oracle 5: losses and predictions stay."""
    features, prototypes, before, old = sample()
    turn, _ = torch.linalg.qr(normal(4, 4, seed=9))
    torch.testing.assert_close(
        divergence(features @ turn, prototypes @ turn, before @ turn, old @ turn, 0.7),
        divergence(features, prototypes, before, old, 0.7),
    )
    torch.testing.assert_close(
        prototype_pull(features @ turn, (prototypes @ turn)[[0, 1, 2, 0, 1]]),
        prototype_pull(features, prototypes[[0, 1, 2, 0, 1]]),
    )
    torch.testing.assert_close(cosine_scores(features @ turn, prototypes @ turn), cosine_scores(features, prototypes))


# L_P


def test_the_pull_moves_prototypes_alone_across_themselves_and_rests_at_the_mean_of_unit_features():
    """Oracle 4."""
    features, own = normal(6, 4).requires_grad_(), normal(1, 4, seed=3).requires_grad_()
    prototype_pull(features, own.expand(6, 4)).sum().backward()
    assert features.grad is None
    assert abs(float((own.detach() * own.grad).sum())) < 1e-14 and float(own.grad.norm()) > 0.1
    mean = nn.functional.normalize(features.detach(), dim=1).mean(0, keepdim=True).requires_grad_()
    prototype_pull(features, mean.expand(6, 4)).sum().backward()
    assert float(mean.grad.norm()) < 1e-13
    same = (2 * features.detach()[:1]).requires_grad_()
    prototype_pull(features[:1], same).sum().backward()
    assert float(same.grad.norm()) < 1e-14


# The objective


def rows(classes, n=24, seed=0):
    g = torch.Generator().manual_seed(seed)
    labels = [classes[i % len(classes)] for i in range(n)]
    return [{"id": f"{seed}-{i}", "inputs": torch.randn(5, generator=g) + c, "label": c} for i, c in enumerate(labels)]


def net(width=6):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, width), nn.Linear(width, 6))


ADAPTER = Classifier(6, features="2")


def stage(classes, seed=0):
    change = Derived("task", Augment(noise=0.1))
    return Roles(ADAPTER, {"task": rows(classes, seed=seed)}, answers={"one": change, "two": change})


def prepared(method, model, *stages):
    """The state in the last of several stages."""
    state = None
    for classes in stages:
        state = method.prepare(model, stage(classes), "one", None if state is None else state.state_dict())
    return state


def loss(method, model, state, classes, reference=None, extra=None):
    (batch,) = stage(classes).window(0, 8, seed=1, roles=VIEWS)
    term = on(VIEWS, method)
    total = term if extra is None else on(VIEWS, extra) + term
    return evaluate(total, model, batch, reference=reference or Copy(model), states={term.name: state}).total


def moved(model, size=0.3):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for i, p in enumerate(other.parameters()):
            p.add_(size * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return other


def test_the_first_stage_is_the_pull_alone():
    """Oracle 6: no relation, and with both weights 0 the contrastive loss is left."""
    model = net()
    state = prepared(PrototypeRelation(), model, (0, 1))
    with_relation = loss(PrototypeRelation(), moved(model), state, (0, 1), Copy(model))
    without = loss(PrototypeRelation(relation=0.0), moved(model), state, (0, 1), Copy(model))
    assert torch.equal(with_relation, without) and float(without.detach()) > 0.1
    nothing = PrototypeRelation(pull=0.0, relation=0.0)
    both = loss(nothing, model, state, (0, 1), extra=SupervisedContrastive())
    (batch,) = stage((0, 1)).window(0, 8, seed=1, roles=VIEWS)
    assert torch.equal(both, evaluate(on(VIEWS, SupervisedContrastive()), model, batch).total)


def test_the_relation_is_over_earlier_classes_alone_a_softmax_a_stage():
    """Trap: the current classes have no part in it, nor do classes of two stages share a softmax."""
    model, method = net(), PrototypeRelation(pull=0.0, relation=1.0)
    state = prepared(method, model, (0, 1), (2, 3), (4, 5))
    assert [state.classes[p].tolist() for p in state.old()] == [[0, 1], [2, 3]]
    with torch.no_grad():
        state.vectors += normal(*state.vectors.shape, seed=4).float()
    now, reference = moved(model), Copy(model)
    found = loss(method, now, state, (4, 5), reference)
    (batch,) = stage((4, 5)).window(0, 8, seed=1, roles=VIEWS)
    f, b = (torch.cat([ADAPTER.views(m, batch, VIEWS)[r].features for r in VIEWS]) for m in (now, reference.module))
    expected = sum(over_classes(f, state.vectors[p], b, state.before[p], 1.0).mean() for p in state.old())
    torch.testing.assert_close(found, expected)
    found.backward()
    assert state.vectors.grad[:4].any(1).all() and not state.vectors.grad[4:].any()
    assert now[0].weight.grad.any(), "the encoder moves too"


def test_axis_and_normalization_are_told_apart():
    model = net()
    values = set()
    for fields in ({}, {"axis": "samples"}, {"normalize_features": True}, {"temperature": 0.2}):
        method = PrototypeRelation(pull=0.0, **fields)
        state = prepared(method, model, (0, 1), (2, 3))
        values.add(round(float(loss(method, moved(model), state, (2, 3), Copy(model)).detach()), 6))
    assert len(values) == 4 and 0.0 not in values


def test_the_teachers_prototypes_are_those_before_the_stage():
    """Trap: taken from the current ones, the loss could not see that they moved."""
    model, method = net(), PrototypeRelation(pull=0.0)
    state = prepared(method, model, (0, 1), (2, 3))
    assert float(loss(method, model, state, (2, 3)).detach()) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        state.vectors[:2] = state.vectors[:2].flip(0)
    assert float(loss(method, model, state, (2, 3)).detach()) > 1e-3


def test_the_teacher_is_in_eval_mode_and_its_statistics_stay():
    """In the released code it normalizes by the batch, and goes on counting."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.Linear(6, 6))
    adapter = Classifier(6, features="3")
    data = stage((2, 3))
    roles = Roles(adapter, {"task": data.rows["task"]}, answers=data.answers)
    reference = Copy(model)
    before = {name: value.clone() for name, value in reference.module.state_dict().items()}
    (batch,) = roles.window(0, 8, seed=1, roles=VIEWS)
    with torch.no_grad():
        expected = copy.deepcopy(model).eval()[:4](batch["one"]["inputs"])
    assert torch.equal(reference.views(model, batch, VIEWS)["one"].features, expected)
    fit(model.train(), roles, on(VIEWS, PrototypeRelation()), Training(steps=3, batch=8), reference=reference)
    assert all(torch.equal(value, before[name]) for name, value in reference.module.state_dict().items())
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])


def test_prototypes_take_plain_steps_of_their_own():
    """No momentum, no decay, no clipping, whatever the model's optimizer does."""
    model, gradients = net(), []

    class Watched(PrototypeRelation):
        def after_step(self, model, state):
            gradients.append(state.vectors.grad.clone())
            super().after_step(model, state)

    method = Watched(learning_rate=0.3)
    start = method.prepare(model, stage((0, 1)), "one").vectors.detach().clone()
    training = Training(steps=4, batch=8, lr=0.1, optimizer="sgd", weight_decay=0.5, clip=1e-9)
    states = fit(model, stage((0, 1)), on(VIEWS, method), training, reference=Copy(model)).states["Watched"]
    torch.testing.assert_close(states["vectors"], start - 0.3 * sum(gradients))
    assert all(g.any() for g in gradients)


def test_the_pull_does_not_move_the_encoder_and_does_not_touch_other_classes():
    model = net()
    training = Training(steps=4, batch=8, lr=0.1, optimizer="sgd")
    first = fit(model, stage((0, 1)), on(VIEWS, PrototypeRelation()), training, reference=Copy(model)).states
    start, old = copy.deepcopy(model.state_dict()), first["prototype_relation"]["vectors"]
    second = fit(
        model,
        stage((2, 3)),
        on(VIEWS, PrototypeRelation(relation=0.0)),
        training,
        reference=Copy(model),
        previous=first,
    ).states["prototype_relation"]
    assert all(torch.equal(v, start[n]) for n, v in model.state_dict().items())
    assert torch.equal(second["vectors"][:2], old) and second["classes"].tolist() == [0, 1, 2, 3]
    assert second["stage"].tolist() == [0, 0, 1, 1]


def test_an_interrupted_stage_goes_on_to_the_same_prototypes(tmp_path):
    from palimpsest.loop import Interrupted

    def run(folder=None, on_step=None):
        model = net()
        first = fit(
            model, stage((0, 1)), on(VIEWS, PrototypeRelation()), Training(steps=2, batch=8), reference=Copy(model)
        )
        terms = on(VIEWS, SupervisedContrastive(width=4)) + on(VIEWS, PrototypeRelation(head="3"))
        training = Training(steps=6, batch=8, lr=0.05, checkpoint_every=2)
        result = fit(
            model, stage((2, 3)), terms, training,
            reference=Copy(model), previous=first.states, folder=folder, on_step=on_step,
        )  # fmt: skip
        return {**model.state_dict(), **{f"{m}/{n}": v for m, own in result.states.items() for n, v in own.items()}}

    def stop(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    whole = run()
    with pytest.raises(Interrupted):
        run(tmp_path, stop)
    again = run(tmp_path)
    assert whole.keys() == again.keys() and all(torch.equal(v, again[n]) for n, v in whole.items())


# Prediction


def trained():
    """Two stages, with the head made of prototypes."""
    model, states = net(), None
    for classes in ((0, 1), (2, 3)):
        terms = on(VIEWS, SupervisedContrastive()) + on(VIEWS, PrototypeRelation(learning_rate=0.1, head="3"))
        training = Training(steps=30, batch=12, lr=0.05, optimizer="sgd")
        states = fit(model, stage(classes), terms, training, reference=Copy(model), previous=states).states
    return model, states["prototype_relation"]


def test_the_head_predicts_by_cosine_over_the_classes_seen_and_task_accuracy_is_at_least_accuracy():
    """Oracle 7, first half."""
    model, states = trained()
    data = {"old": rows((0, 1), seed=5), "new": rows((2, 3), seed=6)}
    subject = ADAPTER.subject(model)
    for role, own in data.items():
        by_hand = states["classes"][cosine_scores(subject.embed(own), states["vectors"]).argmax(1)]
        assert torch.equal(subject.predict(own).argmax(1), by_hand)
        told, untold = TaskAccuracy()(subject, data, role).items, Accuracy()(subject, data, role).items
        assert (told >= untold).all() and float(told.mean()) > 0.6
    assert set(subject.predict(data["old"]).argmax(1).tolist()) <= {0, 1, 2, 3}, "4 and 5 were never seen"
    anywhere = model[3](normal(300, 6).float()).argmax(1)
    assert set(anywhere.tolist()) == {0, 1, 2, 3}, "not even where every cosine is below 0"


def test_unit_class_means_as_prototypes_are_the_nearest_mean_of_normalized_features():
    """Oracle 7, second half: cosine to unit means ranks as the distance to them does."""
    features = normal(30, 4)
    unit = nn.functional.normalize(features, dim=1)
    means = nn.functional.normalize(torch.stack([unit[c::3].mean(0) for c in range(3)]), dim=1)
    nearest = torch.cdist(unit, means).argmin(1)
    assert torch.equal(cosine_scores(features, 5 * means).argmax(1), nearest)


# What is refused


def test_refusals():
    model = net()
    for fields, said in (({"pull": -1.0}, "must not be negative"), ({"temperature": 0.0}, "must be above 0")):
        with pytest.raises(ValueError, match=said):
            PrototypeRelation(**fields)
    state = prepared(PrototypeRelation(), model, (0, 1))
    with pytest.raises(ValueError, match="The label 2 has no prototype in this stage"):
        loss(PrototypeRelation(), model, state, (2, 3))
    state = prepared(PrototypeRelation(), model, (0, 1), (2, 3))
    with pytest.raises(ValueError, match="The label 0 has no prototype in this stage"):
        loss(PrototypeRelation(), model, state, (0, 1))
    with pytest.raises(ValueError, match="prototypes have 6 entries and the features now 7"):
        PrototypeRelation().prepare(net(7), stage((0, 1)), "one", state.state_dict())
    for head in ("1", "0", "nothing"):
        with pytest.raises(ValueError, match=f"'{head}' cannot hold prototypes of 6 entries"):
            PrototypeRelation(head=head).prepare(model, stage((0, 1)), "one")
    with pytest.raises(ValueError, match="There are no prototypes"):
        loss(PrototypeRelation(), model, None, (0, 1))
    with pytest.raises(ValueError, match="No features were recorded"):
        roles = Roles(Classifier(6), {"one": rows((0, 1)), "two": rows((0, 1))})
        PrototypeRelation().prepare(model, roles, "one")
    assert isinstance(state, Prototypes)
