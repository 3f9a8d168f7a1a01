"""NPO with its retain terms against numbers of licong-lin/negative-preference-optimization@1207bbe."""

import json
from pathlib import Path

import pytest
import torch

from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.kl_to_reference import KLToReference
from palimpsest.objectives.npo import NPO, npo

CASES = {c["what"]: c for c in json.loads(Path(__file__).with_name("npo.json").read_text())["cases"]}
FORGET_ONLY = [w for w in CASES if w.startswith("npo, ")]


def leaf(values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def same(found, expected):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_the_file_holds_the_cases():
    assert len(FORGET_ONLY) == 3 and len(CASES) == 6


@pytest.mark.parametrize("what", FORGET_ONLY)
def test_forget_term(what, from_logits):
    case = CASES[what]
    inputs, outputs = case["inputs"], case["outputs"]
    logits = leaf(inputs["logits"])
    ref = {"forget": torch.tensor(inputs["ref_logits"], dtype=torch.float64)}
    total = on("forget", NPO(case["params"]["beta"])) * case["params"]["npo_coeff"]
    loss = from_logits(total, {"forget": (logits, inputs["labels"])}, ref).total
    loss.backward()
    same(loss.detach(), outputs["loss"])
    same(logits.grad, outputs["grad_logits_forget"])


def test_with_retain_cross_entropy(from_logits):
    case = CASES["npo + retain cross-entropy (npo_grad_diff)"]
    inputs, outputs, params = case["inputs"], case["outputs"], case["params"]
    forget, retain = leaf(inputs["logits"]), leaf(inputs["retain_logits"])
    total = params["npo_coeff"] * on("forget", NPO(params["beta"])) + params["grad_diff_coeff"] * on(
        "retain", CrossEntropy()
    )
    given = {"forget": (forget, inputs["labels"]), "retain": (retain, inputs["retain_labels"])}
    loss = from_logits(total, given, {"forget": torch.tensor(inputs["ref_logits"], dtype=torch.float64)}).total
    loss.backward()
    same(loss.detach(), outputs["loss"])
    same(forget.grad, outputs["grad_logits_forget"])
    same(retain.grad, outputs["grad_logits_retain"])


def test_with_retain_kl_where_every_position_counts(from_logits):
    case = CASES["npo + KL to the reference on retain (npo_KL), every position counted"]
    inputs, outputs, params = case["inputs"], case["outputs"], case["params"]

    def one_more(logits):  # the release scores the last position too: one more column makes it predict something
        return torch.cat([logits, torch.zeros_like(logits[:, :1])], 1)

    forget, retain = leaf(inputs["logits"]), leaf(inputs["retain_logits"])
    total = params["npo_coeff"] * on("forget", NPO(params["beta"])) + params["KL_coeff"] * on("retain", KLToReference())
    labels = torch.zeros(len(inputs["retain_labels"]), retain.shape[1] + 1, dtype=torch.int64)
    given = {"forget": (forget, inputs["labels"]), "retain": (one_more(retain), labels)}
    ref = {
        "forget": torch.tensor(inputs["ref_logits"], dtype=torch.float64),
        "retain": one_more(torch.tensor(inputs["retain_ref_logits"], dtype=torch.float64)),
    }
    loss = from_logits(total, given, ref).total
    loss.backward()
    same(loss.detach(), outputs["loss"])
    same(forget.grad, outputs["grad_logits_forget"])
    same(retain.grad, outputs["grad_logits_retain"])


def test_the_token_mean_of_another_release_is_not_the_default(from_logits):
    case = next(c for w, c in CASES.items() if w.startswith("token-mean"))
    inputs, labels = case["inputs"], torch.tensor(case["inputs"]["labels"])
    own, ref = (torch.tensor(inputs[k], dtype=torch.float64) for k in ("logits", "ref_logits"))

    def token_mean(logits):  # over all scored tokens of the batch, as that release does
        targets = labels[:, 1:]
        logp = logits[:, :-1].log_softmax(-1).gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        return logp[targets != -100].mean()

    same(npo(token_mean(own), token_mean(ref), 0.1), case["outputs"]["loss"])
    found = from_logits(on("forget", NPO(0.1)), {"forget": (own, labels)}, {"forget": ref}).total
    assert abs(float(found) - case["outputs"]["loss"]) > 1
