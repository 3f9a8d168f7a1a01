"""The bridge to transformers' Trainer: the plain loop's step inside it, for DDP, FSDP2 and trackers.

    result = fit_with_trainer(model, roles, objective, Training(steps=100, batch=8), report_to=("wandb",))

Batches, counts, losses, rates and masks are those of ``loop.fit``: both end with the same weights.  The model is
trained on the device it is on.  Checkpoints are the Trainer's; one counts only when its ``palimpsest.json``, which
is written last, is there, so a run that is killed at any point goes on from the last complete one.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from palimpsest.checkpoint import (
    flush,
    read_tensors,
    restore_states,
    state_tensors,
    unwritable,
    write_json,
    write_tensors,
)
from palimpsest.combine import Combine, Sum
from palimpsest.loop import (
    Curves,
    Pace,
    Progress,
    Result,
    Training,
    holding_interrupts,
    interrupted,
    learning_rate,
    make_optimizer,
    resumed_curves,
    steps_of,
    stopped,
)
from palimpsest.mask import Mask
from palimpsest.objective import Counts, Term, Total
from palimpsest.reference import Reference
from palimpsest.roles import RoleBatch, Roles
from palimpsest.step import NotFinite, States, Step
from palimpsest.watch import Watch

__all__ = ["RolesTrainer", "fit_with_trainer"]

COMPLETE = "palimpsest.json"
STATES = "objectives.safetensors"


class _Windows(Dataset[RoleBatch]):
    """All micro-batches of one process, in order; the window of a step is made when its first one is asked for."""

    def __init__(self, window: Callable[[int], list[RoleBatch]], steps: int, accumulation: int) -> None:
        self.window, self.steps, self.accumulation = window, steps, accumulation
        self._last: tuple[int, list[RoleBatch]] = (-1, [])

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __getitem__(self, place: int) -> RoleBatch:
        step, micro = divmod(place, self.accumulation)
        if self._last[0] != step:
            self._last = (step, self.window(step))
        return self._last[1][micro]


class RolesTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose training step is ``step``, with the rates and the batches of ``training``."""

    optimizer: torch.optim.Optimizer

    def __init__(self, args: TrainingArguments, step: Step, roles: Roles, training: Training, steps: int) -> None:
        self.step, self.roles, self.training, self.steps = step, roles, training, steps
        self.curves: Curves = {t.name: [] for t in step.objective.terms}
        self.start, self.norm = time.perf_counter(), 0.0
        # Processes save together, so with several of them the clock, on which they differ, must not decide.
        every = training.checkpoint_every or (None if step.processes == 1 else max(1, steps // 10))
        self.pace = Pace(every)
        super().__init__(step.bare, args)
        if self.is_deepspeed_enabled:
            raise ValueError("DeepSpeed reduces gradients in a way of its own; use FSDP2 (fsdp_version: 2) or DDP.")
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[RoleBatch]:
        """The roles' own order; not shuffled, and split over processes by ``Roles.window`` alone."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes

        def window(step: int) -> list[RoleBatch]:
            return self.roles.window(
                step,
                self.training.batch,
                seed=self.args.seed,
                rank=rank,
                world=world,
                accumulation=self.training.accumulation,
                roles=self.step.objective.roles,
                pairs=self.step.objective.pairs,
            )

        windows = _Windows(window, self.steps, self.training.accumulation)
        # A generator of its own: the iterator would draw from the global one, which dropout uses.
        return DataLoader(windows, batch_size=1, collate_fn=_only, generator=torch.Generator())

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The plain loop's optimizer."""
        if self.optimizer is None:
            self.optimizer = make_optimizer(self.training, self.model if model is None else model)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> torch.optim.lr_scheduler.LRScheduler:
        """The plain loop's rates, as multiples of 1 so that no rounding comes between."""
        for group in self.optimizer.param_groups:
            group["initial_lr"] = 1.0
        rate = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda n: learning_rate(self.training, n, self.steps))
        self.lr_scheduler, self._created_lr_scheduler = rate, True
        return rate

    def get_batch_samples(
        self, epoch_iterator: Iterator[RoleBatch], num_batches: int, device: torch.device
    ) -> tuple[list[RoleBatch], Counts]:
        """The micro-batches of one window, and the items in it over all processes."""
        batches = [next(epoch_iterator) for _ in range(num_batches)]
        return batches, self.step.count(batches, self.state.global_step)

    def training_step(self, model: nn.Module, inputs: RoleBatch, num_items_in_batch: Counts | None = None) -> Tensor:
        """One micro-batch; after the window's last one the gradients are merged, masked and clipped."""
        assert num_items_in_batch is not None
        model.train()
        if self.step.model is not model:
            self.step.wrap(model)
        losses = self.step.backward(
            inputs.to(self.args.device),
            num_items_in_batch,
            self.state.global_step / self.steps,
            micro=self.training.accumulation,
            differentiate=self.accelerator.backward,
        )
        if self.accelerator.sync_gradients:
            self.step.gradients()
            self.norm = self.step.clip(self.training.clip)
        return losses.total.detach() * self.step.processes  # the Trainer logs the mean over processes

    def floating_point_ops(self, inputs: RoleBatch) -> int:
        """Not estimated: the Trainer's guess knows neither roles nor references."""
        return 0

    def _get_grad_norm(self, model: nn.Module, grad_norm: float | None = None) -> float:
        return self.norm  # measured by the step

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the terms' values of the last window."""
        super().log({**logs, **self.step.parts} if "loss" in logs else logs, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: None = None) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if (folder / COMPLETE).is_file():
            return
        try:
            with self.pace.writing(), _no_bars():
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    self._complete(folder)
        except (OSError, RuntimeError, SafetensorError) as error:  # the writers' names for a full disk
            shutil.rmtree(folder, ignore_errors=True)
            raise unwritable(folder, error) from error

    def _complete(self, folder: Path) -> None:
        """Marks a checkpoint as whole, and only then deletes the ones before it."""
        write_tensors(folder / STATES, state_tensors(self.step.modules))
        for path in folder.rglob("*"):
            flush(path)
        seconds = time.perf_counter() - self.start
        record = {"step": self.state.global_step, "tokens": self.step.tokens, "seconds": seconds, "curves": self.curves}
        write_json(folder / COMPLETE, record)
        for old in folder.parent.glob("checkpoint-*"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        if load_result.unexpected_keys:  # missing ones are tied to others, which are there
            name = load_result.unexpected_keys[0]
            raise ValueError(
                f"The checkpoint belongs to another model (this one has no {name!r}); choose another run folder."
            )

    def resume(self, folder: Path) -> str | None:
        """The last complete checkpoint in ``folder``, after what the Trainer does not know has been put back."""
        found = [json.loads(p.read_text(encoding="utf-8")) for p in folder.glob(f"checkpoint-*/{COMPLETE}")]
        if not found:
            return None
        last = max(found, key=lambda record: int(record["step"]))
        path = folder / f"checkpoint-{last['step']}"
        self.curves = resumed_curves(last["curves"], self.curves, path)
        restore_states(self.step.modules, read_tensors(path / STATES)[0])
        self.step.tokens, self.start = last["tokens"], time.perf_counter() - last["seconds"]
        return str(path)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Writing a checkpoint shows no progress bar of its own."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _only(batches: Sequence[RoleBatch]) -> RoleBatch:
    return batches[0]


class _EachStep(TrainerCallback):  # type: ignore[misc]
    """What the plain loop does between two steps."""

    def __init__(self, trainer: RolesTrainer, on_step: Callable[[Progress], None] | None, saves: bool) -> None:
        self.trainer, self.on_step, self.saves, self.interrupted = trainer, on_step, saves, False

    def interrupt(self) -> None:
        """Ctrl-C: the step is finished, the state saved, and training ends."""
        self.interrupted = True

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        trainer = self.trainer
        rate = learning_rate(trainer.training, state.global_step, trainer.steps)  # the step is counted after this
        trainer.step.after(trainer.optimizer, rate / trainer.training.lr)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        trainer, done = self.trainer, state.global_step
        for name, value in trainer.step.parts.items():
            trainer.curves[name].append((done, value))
        if self.on_step is not None:
            self.on_step(Progress(done, trainer.steps, trainer.step.parts, time.perf_counter() - trainer.start))
        control.should_save = self.saves and (self.interrupted or (done < trainer.steps and trainer.pace.due(done)))
        control.should_training_stop |= self.interrupted


def fit_with_trainer(
    model: nn.Module,
    roles: Roles,
    objective: Total | Term,
    training: Training,
    *,
    seed: int = 0,
    reference: Reference | None = None,
    teacher: Reference | None = None,
    combine: Combine | None = None,
    mask: Mask | None = None,
    folder: Path | None = None,
    on_step: Callable[[Progress], None] | None = None,
    previous: States | None = None,
    watch: Watch | None = None,
    report_to: Sequence[str] = (),
) -> Result:
    """``loop.fit`` by a Trainer: the same arguments, the same result, the same errors; ``report_to`` names trackers.

    It does not ``watch``: between two steps the Trainer's own callbacks and processes have a say.
    """
    if watch is not None:
        raise ValueError("The Trainer does not measure on the way; watch with train.loop: plain.")
    total = Total((objective,)) if isinstance(objective, Term) else objective
    autocast = torch.bfloat16 if training.precision == "bfloat16" else None
    steps = steps_of(training, roles, total)
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(str(folder)) as output:
        args = _arguments(model, output, training, steps, seed, report_to)  # starts the process group, if there is one
        step = Step(total, model, reference, teacher, combine or Sum(), mask, autocast=autocast, seed=seed)
        step.prepare(roles, previous)
        trainer = RolesTrainer(args, step, roles, training, steps)
        _run(trainer, folder, on_step)
    model.eval()
    return Result(steps, time.perf_counter() - trainer.start, step.tokens, trainer.curves, step.left)


def _arguments(
    model: nn.Module, output: str, training: Training, steps: int, seed: int, report_to: Sequence[str]
) -> TrainingArguments:
    try:
        use_cache = bool(model.config.use_cache)  # type: ignore[union-attr]
    except AttributeError:  # not a model of transformers
        use_cache = False
    args = TrainingArguments(
        output,
        max_steps=steps,
        gradient_accumulation_steps=training.accumulation,
        max_grad_norm=0.0,  # clipped by the step
        seed=seed,
        use_cpu=next(model.parameters()).device.type == "cpu",
        use_cache=use_cache,
        save_strategy="no",  # when to save is decided as in the plain loop
        logging_strategy="steps" if report_to else "no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=list(report_to),
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    args.per_device_train_batch_size = max(1, training.batch // (args.world_size * training.accumulation))
    args._n_gpu = min(args.n_gpu, 1)  # never DataParallel
    return args


def _run(trainer: RolesTrainer, folder: Path | None, on_step: Callable[[Progress], None] | None) -> None:
    each = _EachStep(trainer, on_step, saves=folder is not None)
    trainer.add_callback(each)
    try:
        with holding_interrupts(each.interrupt):
            trainer.train(resume_from_checkpoint=None if folder is None else trainer.resume(folder))
    except NotFinite as error:
        if folder is not None:
            trainer._save_checkpoint(trainer.model_wrapped)
        raise stopped(trainer.state.global_step, trainer.steps, folder, error) from None
    if each.interrupted:
        raise interrupted(trainer.state.global_step, trainer.steps, folder)
