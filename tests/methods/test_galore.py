"""GaLore: Adam in a subspace that changes every gap, and nothing outside of it."""

import projected_checks as checks
import torch
from projected_checks import gradients, shaped, walk

from palimpsest.optim import GaLore


@shaped
def test_full_rank_is_adam_in_the_rotated_basis(shape):
    checks.full_rank_is_adam_in_the_rotated_basis(GaLore, shape)


@shaped
def test_with_the_identity_as_basis_it_is_adam(shape, monkeypatch):
    checks.with_the_identity_as_basis_it_is_adam(GaLore, shape, monkeypatch)


def test_what_is_not_split_takes_steps_of_adam():
    checks.what_is_not_split_takes_steps_of_adam(GaLore)


@shaped
def test_it_applies_nothing_outside(shape):
    found, state = walk(GaLore, shape, gradients(shape, 4), rank=2, lr=0.1)
    basis = state["chosen"]
    along = basis.T @ basis if shape[0] >= shape[1] else basis @ basis.T
    inside = found @ along if shape[0] >= shape[1] else along @ found
    torch.testing.assert_close(inside, found, rtol=0, atol=1e-12)


@shaped
def test_the_size_of_gradients_does_not_matter(shape):
    checks.the_size_of_gradients_does_not_matter(GaLore, shape)


def test_the_basis_changes_every_gap_and_the_moments_stay():
    checks.the_basis_changes_every_gap_and_the_moments_stay(GaLore)


def test_matrices_of_one_shape_move_as_each_alone():
    checks.matrices_of_one_shape_move_as_each_alone(
        lambda groups: GaLore(groups, rank=2, update_gap=3, weight_decay=0.1)
    )


def test_size_of_the_state():
    checks.size_of_the_state(GaLore, 0)


def test_matrices_are_found_by_name_and_size():
    checks.matrices_are_found_by_name_and_size(GaLore)


def test_refusals():
    checks.refusals(GaLore)
