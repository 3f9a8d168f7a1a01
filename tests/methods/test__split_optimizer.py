"""What optimizers of a part share: which matrices are split, the step of the rest, the clock, what is put back."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from palimpsest.optim._split_optimizer import Group, Member, Parameters, SplitOptimizer, common


class Signs(SplitOptimizer):
    """Matrices that are split move by the sign of their gradient."""

    def __init__(self, params: Parameters, lr: float = 0.1, weight_decay: float = 0.0) -> None:
        super().__init__(params, common(lr, weight_decay, (0.9, 0.999), 1e-8, 2, ["attn", "mlp"]))

    def _step_split(self, group: Group, members: Sequence[Member]) -> None:
        for member in members:
            member.weight.sub_(group["lr"] * member.gradient.sign())


def named() -> list[tuple[str, nn.Parameter]]:
    shapes = {
        "embed.weight": (5, 3),
        "0.attn.weight": (3, 3),
        "0.attn.bias": (3,),
        "0.mlp.weight": (4, 3),
        "norm": (3,),
    }
    generator = torch.Generator().manual_seed(0)
    return [(name, nn.Parameter(torch.randn(shape, generator=generator))) for name, shape in shapes.items()]


def with_gradients(parameters: list[tuple[str, nn.Parameter]], seed: int = 1) -> list[tuple[str, nn.Parameter]]:
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return parameters


def test_matrices_of_the_named_modules_are_split_and_nothing_else() -> None:
    groups = Signs(named()).param_groups
    assert {group["project"]: group["param_names"] for group in groups} == {
        True: ["0.attn.weight", "0.mlp.weight"],
        False: ["embed.weight", "0.attn.bias", "norm"],
    }


def test_a_group_is_taken_at_its_word() -> None:
    weights = [parameter for _, parameter in named()]
    groups = Signs([{"params": weights[:1], "project": True}, {"params": weights[1:], "project": False}]).param_groups
    assert [(group["project"], len(group["params"])) for group in groups] == [(True, 1), (False, 4)]
    with pytest.raises(ValueError, match=r"Parameter 0 has the shape \(3,\), and only matrices can be split; move it"):
        Signs([{"params": weights[2:3], "project": True}])


def test_where_nothing_is_split_a_sentence_says_so() -> None:
    with pytest.raises(ValueError, match="Signs finds no matrix to split: none has attn or mlp in its name"):
        Signs([parameter for _, parameter in named()])


def test_what_is_not_split_takes_adamw_s_step() -> None:
    split, plain = named(), named()
    ours = Signs(split, lr=0.1, weight_decay=0.2)
    theirs = torch.optim.AdamW(
        [p for n, p in plain if n in ("embed.weight", "0.attn.bias", "norm")], 0.1, weight_decay=0.2
    )
    before = {name: parameter.detach().clone() for name, parameter in split}
    for seed in range(3):
        with_gradients(split, seed), with_gradients(plain, seed)
        ours.step(), theirs.step()
    for (name, own), (_, other) in zip(split, plain, strict=True):
        if name in ("0.attn.weight", "0.mlp.weight"):
            whole = (before[name] - own) / 0.1  # three signs
            torch.testing.assert_close(whole, whole.round(), atol=1e-5, rtol=0)
            assert whole.abs().max() <= 3.001
        else:
            torch.testing.assert_close(own, other)
    assert [group["steps"] for group in ours.param_groups] == [3, 3]


def test_what_has_no_gradient_stays_and_a_sparse_one_is_refused() -> None:
    parameters = with_gradients(named())
    parameters[1][1].grad = None
    before = parameters[1][1].detach().clone()
    Signs(parameters).step()
    assert torch.equal(parameters[1][1], before)
    parameters[0][1].grad = torch.zeros(5, 3).to_sparse()
    with pytest.raises(ValueError, match=r"Signs takes no sparse gradients; make that of embed\.weight dense"):
        Signs(parameters).step()


def test_a_state_comes_back_in_the_type_it_had() -> None:
    """torch would round it to the weights' bfloat16."""
    parameters = [(name, nn.Parameter(p.detach().bfloat16())) for name, p in named()]
    optimizer, again = Signs(with_gradients(parameters)), Signs(parameters)
    optimizer.step()
    precise: Tensor = torch.tensor([1.0 + 2**-20])
    optimizer.state[parameters[0][1]]["norm"] = precise
    again.load_state_dict(optimizer.state_dict())
    assert torch.equal(again.state[parameters[0][1]]["norm"], precise)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ((-1.0, 0.0, (0.9, 0.9), 1e-8, 1), "lr must be a finite number of at least 0"),
        ((float("inf"), 0.0, (0.9, 0.9), 1e-8, 1), "lr must be a finite number of at least 0"),
        ((0.1, -0.1, (0.9, 0.9), 1e-8, 1), "weight_decay must be at least 0"),
        ((0.1, 0.0, (0.9, 1.0), 1e-8, 1), r"betas must lie in \[0, 1\)"),
        ((0.1, 0.0, (0.9, 0.9), -1.0, 1), "eps must be at least 0"),
        ((0.1, 0.0, (0.9, 0.9), 1e-8, 0), "update_gap must be at least 1 step"),
    ],
)
def test_settings_that_cannot_be(settings: tuple[float, float, tuple[float, float], float, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        common(*settings, ["attn"])
