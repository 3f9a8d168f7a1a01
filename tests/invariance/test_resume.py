"""A run that ends early goes on as if it had not: SIGKILL, Ctrl-C, a full disk, a loss that is not finite."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from palimpsest import checkpoint
from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.checkpoint import read_tensors
from palimpsest.hf import fit_with_trainer
from palimpsest.loop import Interrupted, Progress, Result, Stopped, Training, fit
from palimpsest.objective import Objective, Term, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.roles import Roles
from palimpsest.views import TokenView
from palimpsest.zoo.authors import articles
from palimpsest.zoo.models import tiny_llama

Fit = Callable[..., Result]
LOOPS = pytest.mark.parametrize("how", [fit, fit_with_trainer], ids=["plain", "trainer"])
SCRIPT = Path(__file__).with_name("killed.py")
STEPS = 8


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of ``killed.py`` for both loops and both optimizers, two at a time."""
    folders = {
        f"{loop}-{opt}": tmp_path_factory.mktemp(f"{loop}-{opt}")
        for loop in ("plain", "trainer")
        for opt in ("sgd", "adamw")
    }
    running = {}
    for seed, (name, folder) in enumerate(folders.items()):
        command = [sys.executable, str(SCRIPT), *name.split("-"), str(folder), str(seed)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        running[name] = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        if seed % 2:
            for process in running.values():
                _, said = process.communicate(timeout=300)
                assert process.returncode == 0, said[-4000:]
            running = {}
    return folders


def end(folder: Path, name: str) -> dict[str, Tensor]:
    return read_tensors(folder / f"{name}.safetensors")[0]


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("loop", ["plain", "trainer"])
def test_a_run_killed_ten_times_ends_with_the_same_bits(killed: dict[str, Path], loop: str, optimizer: str) -> None:
    """Weights, curves and token counts, with dropout and with a slow average as reference."""
    folder = killed[f"{loop}-{optimizer}"]
    same(end(folder, "whole"), end(folder, "killed"))
    left = [p.name for p in (folder / "run").iterdir()]
    assert len(left) == 1, left  # neither older checkpoints nor what a killed process had begun to write


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_both_loops_end_with_the_same_bits(killed: dict[str, Path], optimizer: str) -> None:
    same(end(killed[f"plain-{optimizer}"], "killed"), end(killed[f"trainer-{optimizer}"], "killed"))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("loop", ["plain", "trainer"])
def test_a_disk_that_fills_up_ends_with_a_sentence(killed: dict[str, Path], loop: str, optimizer: str) -> None:
    """The system refuses the sixth step's file; the fourth step's checkpoint is whole, and the run goes on from it."""
    folder = killed[f"{loop}-{optimizer}"]
    said = (folder / "said").read_text()
    assert "could not be written" in said and "free some space or choose another folder." in said
    assert "\n" not in said and str(folder / "full") in said
    same(end(folder, "whole"), end(folder, "filled"))


@pytest.fixture(scope="module")
def roles() -> Roles:
    rows = [{"text": r["text"][: 30 + 5 * i]} for i, r in enumerate(articles(8, seed=0))]
    return CausalLM(tiny_llama()[1]).roles(task=rows)


def model_with_dropout() -> nn.Module:
    model = tiny_llama(width=16)[0]
    for block in model.model.layers:
        block.self_attn.attention_dropout = 0.3
    return model


def run(
    how: Fit,
    roles: Roles,
    folder: Path | None = None,
    on_step: Callable[[Progress], None] | None = None,
    objective: Term | None = None,
    model: nn.Module | None = None,
    checkpoint_every: int = 3,
) -> tuple[Tensor, Result]:
    """The weights at the end as one vector, and the result."""
    model = model_with_dropout() if model is None else model
    training = Training(steps=STEPS, batch=4, lr=1e-2, checkpoint_every=checkpoint_every)
    result = how(model, roles, objective or on("task", CrossEntropy()), training, folder=folder, on_step=on_step)
    return vector(model), result


def vector(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture(scope="module")
def whole(roles: Roles) -> tuple[Tensor, Result]:
    return run(fit, roles)


def control_c(at: int) -> Callable[[Progress], None]:
    """Ctrl-C after step ``at``."""

    def press(progress: Progress) -> None:
        if progress.step == at:
            os.kill(os.getpid(), signal.SIGINT)

    return press


@LOOPS
@pytest.mark.parametrize("at", [1, 3, 5, STEPS])
def test_control_c_keeps_what_was_done(
    how: Fit, roles: Roles, whole: tuple[Tensor, Result], tmp_path: Path, at: int
) -> None:
    """Between checkpoints (1, 5), where one is due anyway (3), and after the last step."""
    with pytest.raises(
        Interrupted, match=rf"^Stopped by you after step {at} of 8; run the same command again to go on from "
    ):
        run(how, roles, tmp_path, control_c(at))
    steps: list[int] = []
    weights, result = run(how, roles, tmp_path, lambda p: steps.append(p.step))
    assert steps == list(range(at + 1, STEPS + 1))
    assert torch.equal(weights, whole[0]) and result.curves == whole[1].curves and result.tokens == whole[1].tokens


@dataclass(frozen=True)
class Disturbed(CrossEntropy):
    """Cross-entropy that does something in the middle of the forward of its ``at``-th call."""

    at: int
    calls: list[int]
    do: Callable[[], float]

    def __call__(self, view: TokenView, state: nn.Module | None = None) -> Tensor:
        self.calls.append(1)
        value = super().__call__(view, state)
        return value * self.do() if len(self.calls) == self.at else value


def disturbed(at: int, calls: list[int], do: Callable[[], float]) -> Term:
    """Under the name of the undisturbed term, so that one run can go on from the other."""
    return Term(("task",), Disturbed(at, calls, do), label="task/cross_entropy")


def press_control_c() -> float:
    os.kill(os.getpid(), signal.SIGINT)
    return 1.0


@LOOPS
def test_control_c_inside_a_step_waits_for_its_end(
    how: Fit, roles: Roles, whole: tuple[Tensor, Result], tmp_path: Path
) -> None:
    calls: list[int] = []
    with pytest.raises(Interrupted, match="after step 4 of 8"):
        run(how, roles, tmp_path, objective=disturbed(4, calls, press_control_c))
    assert len(calls) == 4
    weights, _ = run(how, roles, tmp_path)
    assert torch.equal(weights, whole[0])


@LOOPS
def test_without_a_folder_control_c_names_none(how: Fit, roles: Roles) -> None:
    with pytest.raises(Interrupted, match=r"^Stopped by you after step 2 of 8\.$"):
        run(how, roles, on_step=control_c(2))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@LOOPS
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(how: Fit, roles: Roles, tmp_path: Path) -> None:
    model, before = model_with_dropout(), list[Tensor]()
    bad = disturbed(6, [], lambda: float("nan"))
    with pytest.raises(Stopped) as caught:
        run(how, roles, tmp_path, lambda _: before.append(vector(model)), bad, model)
    assert str(caught.value) == (
        "Training stopped at step 6 of 8: the term task/cross_entropy became nan. Lower train.lr or the term's weight; "
        f"the weights of step 5 are kept in {tmp_path}."
    )
    assert len(before) == 5 and torch.equal(before[-1], vector(model))
    steps: list[int] = []
    run(how, roles, tmp_path, lambda p: steps.append(p.step))
    assert steps == [6, 7, 8]


class RootOfZero(Objective):
    """Its value is 0, its gradient is not a number."""

    def __call__(self, view: TokenView, state: nn.Module | None = None) -> Tensor:
        return (view.logp * 0.0).sqrt()


@LOOPS
def test_a_gradient_that_is_not_finite_stops_too(how: Fit, roles: Roles) -> None:
    model = model_with_dropout()
    start = vector(model)
    with pytest.raises(Stopped, match=r"at step 1 of 8: the gradient became nan \(largest term: task/RootOfZero\)"):
        run(how, roles, objective=on("task", RootOfZero()), model=model)
    assert torch.equal(start, vector(model))


@LOOPS
def test_what_a_killed_process_left_behind_is_ignored(
    how: Fit, roles: Roles, whole: tuple[Tensor, Result], tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        run(how, roles, tmp_path, control_c(3))
    good = next(p for p in tmp_path.iterdir() if p.is_dir())
    left = tmp_path / (".step-00000007.1.tmp" if how is fit else "checkpoint-7")
    left.mkdir()
    for file in good.iterdir():
        if file.name not in ("state.json", "palimpsest.json"):
            (left / file.name).write_bytes(file.read_bytes()[:100])
    weights, _ = run(how, roles, tmp_path)
    assert torch.equal(weights, whole[0])
    assert not left.exists()


@LOOPS
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_at_any_call_leaves_the_last_checkpoint(
    how: Fit, roles: Roles, whole: tuple[Tensor, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Each of the first calls of the second checkpoint fails in turn."""
    original = getattr(os, call)

    def fail_at(number: int) -> None:
        calls: list[int] = []

        def failing(*arguments: object) -> object:
            calls.append(1)
            if len(calls) == number:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(*arguments)

        monkeypatch.setattr(os, call, failing)

    for number in (1, 2, 4):
        folder = tmp_path / str(number)
        with pytest.raises(OSError, match=r"could not be written \(No space left on device\); free some space"):
            run(how, roles, folder, lambda p, n=number: fail_at(n) if p.step == 5 else None)  # type: ignore[misc]
        monkeypatch.setattr(os, call, original)
        kept = [p.parent.name[-1] for p in folder.glob("*/*.json") if p.name in ("state.json", "palimpsest.json")]
        assert kept == ["3"]
        weights, _ = run(how, roles, folder)
        assert torch.equal(weights, whole[0])
        if call == "replace" and how is fit_with_trainer:
            break  # the Trainer's own files are not renamed: there are two calls


@dataclass(frozen=True)
class Momentous(CrossEntropy):
    """Weighs its loss by a state that moves after every step."""

    def prepare(self, model: nn.Module, roles: Roles, role: str, previous: object = None) -> nn.Module:
        return nn.ParameterDict({"scale": nn.Parameter(torch.tensor(1.0), requires_grad=False)})

    def __call__(self, view: TokenView, state: nn.Module | None = None) -> Tensor:
        return super().__call__(view) * state["scale"]  # type: ignore[index]

    def after_step(self, model: nn.Module, state: nn.Module | None) -> None:
        state["scale"].mul_(0.9)  # type: ignore[index]


@LOOPS
def test_states_of_objectives_are_resumed(how: Fit, roles: Roles, tmp_path: Path) -> None:
    objective = on("task", Momentous())
    uninterrupted, _ = run(how, roles, objective=objective)
    with pytest.raises(Interrupted):
        run(how, roles, tmp_path, control_c(5), objective)
    resumed, _ = run(how, roles, tmp_path, objective=objective)
    assert torch.equal(resumed, uninterrupted)
    assert not torch.equal(resumed, run(how, roles)[0])


def test_a_weight_that_is_laid_out_otherwise_is_resumed(roles: Roles, tmp_path: Path) -> None:
    """A fused optimizer walks weight and state in memory: restored in another layout, it would pair wrong entries."""

    def transposed() -> nn.Module:
        model = model_with_dropout()
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.data = parameter.data.t().contiguous().t()
        assert not all(p.is_contiguous() for p in model.parameters())
        return model

    uninterrupted, _ = run(fit, roles, model=transposed())
    with pytest.raises(Interrupted):
        run(fit, roles, tmp_path, control_c(5), model=transposed())
    assert torch.equal(run(fit, roles, tmp_path, model=transposed())[0], uninterrupted)


@LOOPS
def test_a_checkpoint_of_another_model_is_refused(how: Fit, roles: Roles, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(how, roles, tmp_path, control_c(2))
    with pytest.raises(ValueError, match=r"belongs to another model .* choose another run folder"):
        run(how, roles, tmp_path, model=tiny_llama(width=16, layers=1)[0])
    with pytest.raises(ValueError, match=r"belongs to another objective .* choose another run folder"):
        run(how, roles, tmp_path, objective=on("task", Momentous()))


def test_saving_the_same_step_again_keeps_the_first(roles: Roles, tmp_path: Path) -> None:
    """Ctrl-C just after a checkpoint must not open a moment without one."""
    model = model_with_dropout()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    checkpoint.save(tmp_path, 3, model, optimizer, {}, {"tokens": 1})
    checkpoint.save(tmp_path, 3, model, optimizer, {}, {"tokens": 2})
    found = checkpoint.latest(tmp_path)
    assert found is not None and found.step == 3 and found.extra["tokens"] == 1
