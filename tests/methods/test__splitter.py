"""The splits of a gradient: parts that come back, rests that hold nothing of them, choices that can be repeated."""

import pytest
import torch

from palimpsest.optim._splitter import SPLITS, Columns, Leading, blocks, draw

SHAPES = [(6, 4), (3, 5), (4, 4), (1, 7), (7, 1)]
DOUBLE = torch.float64
every = pytest.mark.parametrize("kind", SPLITS)
shaped = pytest.mark.parametrize("shape", SHAPES, ids=str)


def matrix(shape, seed=0, dtype=DOUBLE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def split_of(kind, gradient, density=0.5):
    cls = SPLITS[kind]
    return cls.refresh(gradient, cls.size_of(gradient.shape, density), draw("test"))


@every
@shaped
@pytest.mark.parametrize("density", [0.0, 0.5, 1.0])
def test_part_and_rest_make_the_whole(kind, shape, density):
    gradient = matrix(shape)
    split = split_of(kind, gradient, density)
    part = split.down(gradient)
    rest = split.residual_(gradient.clone(), part)
    torch.testing.assert_close(split.up(part) + rest, gradient, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(split.down(rest), torch.zeros_like(part), rtol=0, atol=1e-12)
    torch.testing.assert_close(split.down(split.up(part)), part, rtol=1e-12, atol=1e-12)
    if kind in ("columns", "rows", "entries"):  # exactly, and with nothing in common
        assert torch.equal(split.up(part) + rest, gradient)
        assert not ((split.up(part) != 0) & (rest != 0)).any()
        assert part.numel() == int((split.up(part) != 0).sum())


@every
@shaped
def test_adding_up_equals_the_matrix_product_of_a_loop(kind, shape):
    gradient, target = matrix(shape), matrix(shape, 1)
    split = split_of(kind, gradient)
    part = split.down(gradient)
    expected = torch.zeros(shape, dtype=DOUBLE)
    for index in range(part.numel()):  # one unit of the part at a time
        unit = torch.zeros_like(part).view(-1)
        unit[index] = 1.0
        expected += part.flatten()[index] * split.up(unit.view_as(part))
    found = target.clone()
    split.add_up(found, part, -0.3)
    torch.testing.assert_close(found, target - 0.3 * expected, rtol=1e-12, atol=1e-12)


@every
@shaped
def test_a_split_is_its_tensor_and_the_shape(kind, shape):
    gradient = matrix(shape)
    split = split_of(kind, gradient)
    again = SPLITS[kind](split.chosen.clone(), gradient.shape)
    assert torch.equal(again.down(gradient), split.down(gradient)) and again.complete == split.complete


@pytest.mark.parametrize("kind", ["svd", "random"])
@shaped
def test_a_basis_is_orthonormal_and_of_the_smaller_side(kind, shape):
    split = split_of(kind, matrix(shape), 1.0)
    rows = split.chosen if split.dim else split.chosen.T
    assert rows.shape == (min(shape), min(shape)) and split.complete
    torch.testing.assert_close(rows @ rows.T, torch.eye(min(shape), dtype=DOUBLE), rtol=0, atol=1e-6)


@shaped
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_leading_directions_have_a_rule_for_their_signs(shape, sign):
    gradient = matrix(shape)
    left, values, right = torch.linalg.svd(gradient, full_matrices=False)
    split = Leading.refresh(sign * gradient, 1, draw())
    theirs = right[0] if split.dim else left[:, 0]
    ours = split.chosen.flatten()
    torch.testing.assert_close(ours, theirs * theirs[theirs.abs().argmax()].sign())
    torch.testing.assert_close(split.down(gradient).norm(), values[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_basis_has_the_type_of_the_gradient(dtype):
    gradient = matrix((6, 4)).to(dtype)
    split = Leading.refresh(gradient, 2, draw())
    exact = Leading.refresh(gradient.double(), 2, draw())
    assert split.chosen.dtype == dtype
    torch.testing.assert_close(split.chosen.double(), exact.chosen, rtol=0, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (24, 24)], ids=str)
def test_leading_directions_in_single_precision_are_nearer_the_true_ones_than_a_decomposition(shape):
    """Singular values that fall by four orders of magnitude."""
    gradient = matrix(shape) @ torch.diag(torch.logspace(0, -4, shape[1], dtype=DOUBLE))
    size = min(shape) // 2
    exact = Leading.refresh(gradient, size, draw())
    found = Leading.refresh(gradient.float(), size, draw())
    left, _, right = torch.linalg.svd(gradient.float(), full_matrices=False)
    rows = (right if exact.dim else left.T)[:size].double()

    def apart(chosen):  # the distance between the two subspaces
        own, true = (x if exact.dim else x.T for x in (chosen, exact.chosen))
        return float((own.T @ own - true.T @ true).norm())

    assert apart(found.chosen.double()) < min(1e-6, apart(rows if exact.dim else rows.T))
    torch.testing.assert_close(found.chosen.double(), exact.chosen, rtol=0, atol=1e-6)


def test_a_gradient_of_zero_has_a_basis_too():
    chosen = Leading.refresh(torch.zeros(6, 4), 2, draw()).chosen
    torch.testing.assert_close(chosen @ chosen.T, torch.eye(2))


@every
def test_choices_depend_on_the_place_alone(kind):
    gradient = matrix((40, 30))
    cls = SPLITS[kind]
    size = cls.size_of(gradient.shape, 0.3)
    one, two = (cls.refresh(gradient, size, draw(0, "split", 3, 1)).chosen for _ in range(2))
    assert torch.equal(one, two)
    if kind != "svd":
        assert not torch.equal(one, cls.refresh(gradient, size, draw(0, "split", 4, 1)).chosen)


@pytest.mark.parametrize(("kind", "size"), [("svd", 2), ("random", 2), ("columns", 2), ("rows", 3), ("entries", 15)])
def test_sizes(kind, size):
    """Places are cut, ranks are rounded: half of 7 x 5."""
    assert SPLITS[kind].size_of(torch.Size((7, 5)), 0.45) == size


def test_places_of_a_strided_matrix():
    gradient = matrix((5, 6)).T
    for kind in SPLITS:
        split = split_of(kind, gradient)
        weight = matrix((6, 5), 2)
        before = weight.clone()
        split.add_up(weight, split.down(gradient), 1.0)
        torch.testing.assert_close(weight, before + split.up(split.down(gradient)))


@every
@pytest.mark.parametrize("shape", [(6, 4), (3, 5), (4, 4)], ids=str)
def test_stacked_matrices_are_split_as_each_alone(kind, shape):
    gradients, targets = ([matrix(shape, seed) for seed in seeds] for seeds in (range(3), range(3, 6)))
    splits = [SPLITS[kind].refresh(g, SPLITS[kind].size_of(g.shape, 0.5), draw(i)) for i, g in enumerate(gradients)]
    together = SPLITS[kind](torch.stack([s.chosen for s in splits]), gradients[0].shape)
    stack, target = torch.stack(gradients), torch.stack(targets)
    assert together.complete == splits[0].complete
    parts = together.down(stack)
    for keep in (1.0, 0.5, 0.0):
        found = target.clone()
        together.add_up(found, parts, -0.3, keep)
        for i, split in enumerate(splits):
            torch.testing.assert_close(parts[i], split.down(gradients[i]))
            torch.testing.assert_close(found[i], keep * targets[i] - 0.3 * split.up(parts[i]))
    assert together.residual_(stack, parts) is stack
    for i, split in enumerate(splits):
        torch.testing.assert_close(stack[i], split.residual_(gradients[i].clone(), parts[i]))


@every
def test_what_is_not_kept_does_not_matter(kind):
    split = split_of(kind, matrix((6, 4)))
    part = split.down(matrix((6, 4)))
    target = torch.full((6, 4), torch.nan, dtype=DOUBLE)
    split.add_up(target, part, 1.0, keep=0.0)
    torch.testing.assert_close(target, split.up(part))


@pytest.mark.parametrize("order", ["ascending", "descending"])
@pytest.mark.parametrize(("count", "active"), [(4, 2), (5, 2), (7, 3), (3, 3), (6, 1)])
def test_every_block_has_its_turn(order, count, active):
    turns = [blocks(count, active, order, period, seed=0) for period in range(-(-count // active))]
    assert set().union(*turns) == set(range(count)) and all(len(t) == active for t in turns)
    first = range(active) if order == "ascending" else range(count - active, count)
    assert turns[0] == set(first)


def test_blocks_drawn_at_random_are_all_drawn_in_time():
    turns = [blocks(8, 2, "random", period, seed=1) for period in range(60)]
    assert turns == [blocks(8, 2, "random", period, seed=1) for period in range(60)]
    assert turns != [blocks(8, 2, "random", period, seed=2) for period in range(60)]
    counts = [sum(block in turn for turn in turns) for block in range(8)]
    assert sum(counts) == 120 and min(counts) >= 6 and max(counts) <= 26
    assert blocks(8, 0, "random", 0, 0) == frozenset()


def test_columns_are_in_order():
    places = Columns.refresh(matrix((3, 50)), 20, draw(1)).chosen
    assert torch.equal(places, places.unique())
