"""BAdam: one layer at a time moves, by steps of AdamW, and has state; none of the others decays."""

import torch
from split_checks import a_vector_in_a_group_to_be_split_is_refused, memory_of_blocks, weights

from palimpsest.optim import BAdam
from palimpsest.optim.badam import layers


def test_layers_are_numbered_by_their_names():
    names = ["m.layers.0.attn.q", "m.layers.0.mlp.up", "m.layers.1.attn.q", "m.layers.10.attn.q", "m.other", "h.3"]
    assert layers(names) == [0, 0, 1, 2, 3, 4]
    assert layers(["q1.weight", "q1.bias"]) == [0, 1]


def test_only_one_layer_moves_and_none_of_the_others_decays():
    parameters = {f"layers.{i}.mlp.{n}": p for i in range(3) for n, p in weights(i).items()}
    start = {n: p.detach().clone() for n, p in parameters.items()}
    optimizer = BAdam(parameters.items(), lr=0.1, weight_decay=0.1, update_gap=2, order="descending")
    for step in range(6):
        before = {n: p.detach().clone() for n, p in parameters.items()}
        for parameter in parameters.values():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        moved = {n.split(".")[1] for n, p in parameters.items() if not torch.equal(p, before[n])}
        assert moved == {str(2 - step // 2)}
    for name, parameter in parameters.items():  # two steps of AdamW along the same sign
        expected = (start[name] * 0.99 - 0.1) * 0.99 - 0.1
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-6)


def test_memory_of_blocks():
    memory_of_blocks(BAdam)


def test_a_vector_in_a_group_to_be_split_is_refused():
    a_vector_in_a_group_to_be_split_is_refused(BAdam)
