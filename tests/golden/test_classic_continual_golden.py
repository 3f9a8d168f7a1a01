"""The peers of continual learning against numbers of avalanche, mammoth and a paper's own repository.

ContinualAI/avalanche@eb075be, aimagelab/mammoth@e75a491, Mattdl/ContinualEvaluation@7ffa368.
The case of SI is of a method that is not here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.combine import ConeProjection, OneSidedProjection
from palimpsest.objective import evaluate, on
from palimpsest.objectives.asymmetric_cross_entropy import AsymmetricCrossEntropy
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.dark_experience import DarkExperience, Remembered
from palimpsest.objectives.elastic_weight_consolidation import ElasticWeightConsolidation, empirical_fisher
from palimpsest.objectives.learning_without_forgetting import LearningWithoutForgetting, learning_without_forgetting
from palimpsest.roles import RoleBatch, Roles
from palimpsest.views import LabelView

CASES = json.loads(Path(__file__).with_name("classic-continual.json").read_text())["cases"]
NAMES = ("weight", "bias")


def case(begins: str, inside: str = "") -> dict[str, Any]:
    (found,) = [c for c in CASES if c["what"].startswith(begins) and inside in c["what"]]
    return found


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def same(found: Tensor, expected: Any, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found.detach(), double(expected), rtol=tolerance, atol=tolerance)


def linear(params: dict[str, Any]) -> nn.Linear:
    model = nn.Linear(2, 3).double()
    model.load_state_dict({n: double(params[n]) for n in NAMES})
    return model


def rows(x: list[Any], y: list[int]) -> list[dict[str, Any]]:
    return [{"inputs": double(v), "label": c} for v, c in zip(x, y, strict=True)]


def batches(**roles: list[dict[str, Any]]) -> RoleBatch:
    """All rows of every role, in their order."""
    adapter = Classifier(3)
    return RoleBatch(
        {
            r: {**adapter.collate([adapter.encode(v) for v in own]), "index": torch.arange(len(own))}
            for r, own in roles.items()
        },
        adapter,
    )


# Elastic weight consolidation

EWC = case("EWC", "batch size 1")


def ewc_states(given: dict[str, Any], decay: float | None) -> tuple[ElasticWeightConsolidation, nn.Module]:
    """What two stages leave behind: prepared after task 1, and again after task 2 with what the first left."""
    roles = Roles(
        Classifier(3),
        {"task1": rows(given["x_task1"], given["y_task1"]), "task2": rows(given["x_task2"], given["y_task2"])},
    )
    first = ElasticWeightConsolidation(of="task1", decay=decay)
    left = first.prepare(linear(given["params_after_task1"]), roles, "weights")
    second = ElasticWeightConsolidation(of="task2", decay=decay)
    return second, second.prepare(linear(given["params_after_task2"]), roles, "weights", left.state_dict())


@pytest.mark.parametrize("task", ["1", "2"])
def test_importances(task: str) -> None:
    given = EWC["inputs"]
    roles = Roles(Classifier(3), {"of": rows(given[f"x_task{task}"], given[f"y_task{task}"])})
    found = empirical_fisher(linear(given[f"params_after_task{task}"]), roles, "of")
    for name in NAMES:
        same(found[name], EWC["outputs"]["importance[task] separate"][str(int(task) - 1)][name])


@pytest.mark.parametrize(("mode", "decay"), [("separate", None), ("online", EWC["params"]["decay_online"])])
def test_penalty_and_gradient_after_two_tasks(mode: str, decay: float | None) -> None:
    method, state = ewc_states(EWC["inputs"], decay)
    if mode == "online":
        for name in NAMES:
            same(state.of("importance", name), EWC["outputs"]["importance_online"][name])
    model = linear(EWC["inputs"]["params_now"])
    term = 2 * EWC["params"]["ewc_lambda"] * on("weights", method)  # the release leaves out the half
    losses = evaluate(term, model, RoleBatch({}, Classifier(3)), states={term.name: state})
    losses.total.backward()
    same(losses.total, EWC["outputs"][f"penalty_{mode}"], 1e-6)  # accumulated in float32 there
    for name in NAMES:
        same(model.get_parameter(name).grad, EWC["outputs"][f"grad_{mode}"][name], 1e-6)


def test_squares_of_batch_gradients_and_weighted_squares_are_something_else() -> None:
    """The two faults of the released code: batches of 2, and each square times p(y | x)."""
    batched, weighted, given = case("EWC", "batch size 2"), case("online EWC"), EWC["inputs"]
    roles = Roles(Classifier(3), {"of": rows(given["x_task1"], given["y_task1"])})
    fisher = empirical_fisher(linear(given["params_after_task1"]), roles, "of")
    wrong = double(batched["outputs"]["importance[task] separate"]["0"]["weight"])
    assert float((fisher["weight"] - wrong).abs().max()) > 0.01
    _, state = ewc_states(given, 0.9)
    flat = torch.cat([state.of("importance", n).flatten() for n in NAMES])
    assert float((flat - double(weighted["outputs"]["fisher_flat"])).abs().max()) > 0.1


# Learning without forgetting

LWF = case("LwF")


def test_distillation_on_the_old_classes() -> None:
    given, found = LWF["inputs"], LWF["outputs"]
    logits = double(given["logits_new_model"]).requires_grad_()
    view = LabelView({"labels": torch.zeros(4, dtype=torch.int64)}, logits)
    view.companions["ref"] = LabelView(view.batch, double(given["logits_old_model"]))
    loss = LearningWithoutForgetting((0, 1, 2), LWF["params"]["temperature"])(view).mean()
    loss.backward()
    same(loss, found["avalanche (KL)"])
    same(logits.grad, found["grad_avalanche_new_logits"])
    old = (view.ref.logits[:, :3] / 2).log_softmax(-1)
    same(loss + -(old.exp() * old).sum(-1).mean(), found["mammoth (cross-entropy form)"])


@pytest.mark.parametrize(
    ("logits", "third"),
    [
        ("logits_new_model", "stability-gap repository (softmax over all classes, then old ones picked)"),
        ("logits_new_model_variant", "same, variant logits"),
    ],
)
def test_the_softmax_over_all_classes_is_not_what_we_compute(logits: str, third: str) -> None:
    """The new classes' logits, by which the two inputs differ, take no part here."""
    new, old = double(LWF["inputs"][logits]), double(LWF["inputs"]["logits_old_model"])
    same(learning_without_forgetting(new[:, :3], old[:, :3], 2).mean(), LWF["outputs"]["avalanche (KL)"])
    assert abs(LWF["outputs"][third] - LWF["outputs"]["avalanche (KL)"]) > 0.1


# Dark experience


@pytest.mark.parametrize("name", ["der", "derpp"])
def test_dark_experience(name: str) -> None:
    found = case("DER")
    given, outputs, params = found["inputs"], found["outputs"], found["params"]
    model = linear(given["params"])
    replay = rows(given["buffer1_x"], [0, 0])
    total = on("task", CrossEntropy()) + params["alpha"] * on("replay", DarkExperience())
    own = {"task": rows(given["x"], given["y"]), "replay": replay}
    if name == "derpp":
        total = total + params["beta"] * on("again", CrossEntropy())
        own["again"] = rows(given["buffer2_x"], given["buffer2_y"])
    stored = Remembered(torch.arange(2), double(given["buffer1_stored_logits"]), torch.arange(2))
    loss = evaluate(total, model, batches(**own), states={"replay/dark_experience": stored}).total
    loss.backward()
    same(loss, outputs[f"{name}_loss"])
    for parameter in NAMES:
        same(model.get_parameter(parameter).grad, outputs[f"{name}_grad"][parameter])


# A-GEM, GEM and ER-ACE


@pytest.mark.parametrize("split", [6, 2])
def test_projection_of_a_gem(split: int) -> None:
    """The whole gradient as one vector, or as two tensors: the projection is over all of it."""
    found = case("A-GEM")
    given, outputs = found["inputs"], found["outputs"]
    sizes = [split, 6 - split] if split < 6 else [6]
    g, r, calm = (list(double(given[k]).split(sizes)) for k in ("g", "g_ref", "g_ref_no_conflict"))
    merge = OneSidedProjection(protect="replay", follow=False).merge
    projected = torch.cat(merge([g, r]))
    for release in ("projected (conflict)", "avalanche, conflict"):
        same(projected, outputs[release])
    assert abs(float(projected @ torch.cat(r))) < 1e-14
    assert torch.equal(torch.cat(merge([g, calm])), torch.cat(g)), "without conflict nothing changes"
    nothing = [torch.zeros_like(t) for t in r]
    assert torch.equal(torch.cat(merge([g, nothing])), torch.cat(g))


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("split", [6, 2])
def test_projection_of_gem(margin: float, split: int) -> None:
    found = case("GEM")
    given, outputs = found["inputs"], found["outputs"]
    sizes = [split, 6 - split] if split < 6 else [6]
    g, *memories = (list(double(v).split(sizes)) for v in (given["g"], *given["memories"]))
    merged = ConeProjection(("a", "b", "c"), margin).merge([g, *memories])
    projected = torch.cat(merged)
    same(projected, outputs[f"projected, margin {margin}"], 1e-7)
    dots = torch.stack([projected @ torch.cat(m) for m in memories])
    same(dots, outputs[f"dots_with_memories, margin {margin}"], 1e-7)


def test_er_ace() -> None:
    found = case("ER-ACE")
    given = found["inputs"]

    def view(logits: str, labels: str) -> LabelView:
        return LabelView({"labels": torch.tensor(given[labels])}, double(given[logits]))

    new = AsymmetricCrossEntropy()(view("logits_new", "y_new")).mean()
    old = CrossEntropy()(view("logits_buffer", "y_buffer")).mean()
    same(0.5 * new + 0.5 * old, found["outputs"]["loss"])
