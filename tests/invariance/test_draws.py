"""Of several processes each draws its own dropout, the same again when the run goes on, and the same by both loops."""

from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("draws_worker.py")


@pytest.fixture(scope="module")
def found(two_processes, tmp_path_factory):
    return two_processes(WORKER, tmp_path_factory.mktemp("draws"))


@pytest.mark.parametrize("loop", ["plain", "trainer"])
def test_no_process_step_or_micro_batch_draws_what_another_does(found, loop):
    drawn = torch.cat([part[loop]["drawn"] for part in found]).flatten(
        1
    )  # [2 processes x 4 steps x 2 micro-batches, :]
    assert drawn.shape == (16, 64) and len(drawn.unique(dim=0)) == 16


@pytest.mark.parametrize("loop", ["plain", "trainer"])
def test_a_run_that_goes_on_draws_the_same_again(found, loop):
    for part in found:
        whole, again = part[loop], part[f"{loop}, killed"]
        assert torch.equal(again["drawn"], whole["drawn"][4:])  # from the checkpoint at step 2 on
        assert torch.equal(again["weights"], whole["weights"])


def test_it_follows_from_the_seed_and_not_from_the_loop(found):
    for part in found:
        assert torch.equal(part["plain"]["drawn"], part["trainer"]["drawn"])
        assert torch.equal(part["plain"]["drawn"], part["by hand"]["drawn"])
        assert not torch.equal(part["plain"]["drawn"], part["other seed"]["drawn"])
    assert torch.equal(found[0]["plain"]["weights"], found[1]["plain"]["weights"])
    assert torch.equal(found[0]["after"], found[1]["after"])  # outside of a step all draw alike
