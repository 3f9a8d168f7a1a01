"""Two hundred classes told from noisy codes: the Z-loss ranks better than the other losses of its family."""

import pytest

from palimpsest.claims.spherical_z_loss import Codes, top_accuracy
from palimpsest.objectives.spherical_z import squared_error_loss, taylor_softmax_loss, z_loss
from palimpsest.views import Moments


@pytest.mark.parametrize("seed", [0, 1])
def test_ranks_better_than_squared_error_and_taylor_softmax(seed):
    codes = Codes(classes=200, steps=150, test=1000)
    members = {"z": lambda m: z_loss(m, 1.0, 8.0), "squared error": squared_error_loss, "Taylor": taylor_softmax_loss}
    top5 = {
        name: top_accuracy(codes, lambda o, c, loss=loss: loss(Moments.of(o, c)), 1e-2, seed)[1]
        for name, loss in members.items()
    }
    assert top5["z"] > top5["Taylor"] + 0.04 and top5["z"] > top5["squared error"] + 0.3 > 0.4, top5
