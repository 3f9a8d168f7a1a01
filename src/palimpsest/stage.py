"""One stage of a recipe: select -> layers -> edit -> mask -> train -> intervention, resumable as a whole."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from palimpsest import low_rank
from palimpsest.checkpoint import read_tensors
from palimpsest.intervention import Intervention
from palimpsest.loop import Progress, Result, Stopped, Training, fit
from palimpsest.mask import Mask
from palimpsest.objective import Total
from palimpsest.own_parts import failed
from palimpsest.peak_memory import PeakMemory
from palimpsest.processes import agreed, made_equal
from palimpsest.recipe import RecipeError, Slow, Spec, Stage
from palimpsest.recipe_parts import (
    compile_combine,
    compile_layers,
    compile_objective,
    compile_part,
    compile_reference,
    compile_training,
)
from palimpsest.reference import AdapterOff, Cached, Copy, Frozen, Reference, SlowAverage, cache, fingerprint
from palimpsest.roles import Roles
from palimpsest.select import Selection, Selector
from palimpsest.stage_folder import REFERENCE, Outcome, WritesConfig, keep, kept_outcome, kept_states, tidy
from palimpsest.stage_watch import kept, watch_of
from palimpsest.step import States

__all__ = ["Trained", "explaining", "run_stage"]


@dataclass
class Trained:
    """What the stages of one plan have made so far."""

    model: nn.Module
    companions: dict[str, nn.Module]
    interventions: list[Intervention]
    states: States = field(default_factory=dict)
    start: Mapping[str, Tensor] = field(default_factory=dict)
    """The weights with which the first of those stages began."""


def explained(error: Exception, place: str) -> Exception:
    """``error`` as a ``RecipeError`` that names the place, or itself where only a programmer can mend it."""
    text = " ".join((str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)).split())
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in text:
        return RecipeError(f"{place}: the memory is full; lower train.batch, or raise train.accumulation.")
    own = failed(error, place)
    if own is not None:
        return own
    asked = re.search(r"'(Label|Token)View' object has no attribute '(\w+)'", text)
    if asked is not None:
        kind = "classifier" if asked[1] == "Label" else "language model"
        return RecipeError(f"{place}: a method here asks for {asked[2]}, which a {kind} does not give; take another.")
    if isinstance(error, ValueError | LookupError | OverflowError | ImportError):
        sentence = text if text.startswith(place) else f"{place}: {text}"
        return RecipeError(sentence if sentence.endswith((".", "?")) else f"{sentence}.")
    if isinstance(error, RuntimeError) and not isinstance(error, Stopped):
        return RecipeError(f"{place}: PyTorch stopped ({text[:200].rstrip('.')}); check that rows and model fit.")
    return error


@contextlib.contextmanager
def explaining(place: str) -> Iterator[None]:
    """Inside, errors are ``explained``."""
    try:
        yield
    except Exception as error:
        told = explained(error, place)
        if told is error:
            raise
        raise told from error


def run_stage(
    stage: Stage,
    place: str,
    trained: Trained,
    roles: Roles,
    *,
    seed: int,
    folder: Path,
    on_step: Callable[[Progress], None] | None = None,
    allow_imports: bool = False,
) -> Outcome:
    """Does one stage in place: ``trained`` afterwards holds its model, companions and interventions."""
    companion = stage.trains != "model"
    if companion:
        torch.manual_seed(seed)
        trained.companions[stage.trains] = _started(stage, place, trained.model, allow_imports)
    model = trained.companions[stage.trains] if companion else trained.model
    done = agreed(lambda: kept_outcome(folder))
    if done is not None:
        agreed(lambda: tidy(folder))
        tensors, _ = read_tensors(folder / "model.safetensors")
        model.load_state_dict(tensors, strict=False)
        outcome = done
        trained.states = {**_earlier(stage, trained.states), **kept_states(folder)}
    else:
        work = _Work(stage, place, model, trained, roles, seed, folder, on_step, allow_imports)
        outcome, states = work.do()
        trained.states = {**_earlier(stage, trained.states), **states}
        kept_state = _changed(model, companion) if stage.objective or stage.edit else {}
        whole = None if companion or not isinstance(roles.adapter, WritesConfig) else roles.adapter
        agreed(lambda: keep(folder, model, kept_state, states, outcome, whole))
    intervention = compile_part(
        stage.intervention, "interventions", f"{place}.intervention", allow_imports=allow_imports
    )
    if intervention is not None:
        trained.interventions.append(intervention)
    return outcome


def _earlier(stage: Stage, states: States) -> States:
    """The states of earlier stages that still hold after this one: an adapter's do not, once the weights changed."""
    changes = stage.trains == "model" and bool(stage.objective or stage.edit)
    return low_rank.without_adapter(states) if changes else states


def _started(stage: Stage, place: str, model: nn.Module, allow_imports: bool) -> nn.Module:
    """The companion as it is before it is trained."""
    start = compile_part(stage.starts, "procedures", f"{place}.starts", allow_imports=allow_imports)
    try:
        companion = start(model)
    except (ValueError, ImportError) as error:
        raise explained(error, f"{place}.starts") from error
    except TypeError:  # a procedure for something else takes other arguments
        companion = None
    if not isinstance(companion, nn.Module):
        raise RecipeError(
            f"{place}.starts: {stage.starts} makes no companion of a model; name one such as truncated_copy."
        )
    return companion


def _changed(model: nn.Module, companion: bool) -> dict[str, Tensor]:
    """What must be written: all of the model, but of a companion, which may share the rest, what its training moves.

    Weights that are tied are one parameter, which is written under its first name, as ``save_pretrained`` does.
    """
    state = model.state_dict()
    if not companion:
        again = {n for n, _ in model.named_parameters(remove_duplicate=False)} - {
            n for n, _ in model.named_parameters()
        }
        return {n: v for n, v in state.items() if n not in again}
    moving = {n for n, p in model.named_parameters() if p.requires_grad} | {n for n, _ in model.named_buffers()}
    return {n: v for n, v in state.items() if n in moving}


@dataclass(frozen=True)
class _Work:
    """One stage to be done."""

    stage: Stage
    place: str
    model: nn.Module
    trained: Trained
    roles: Roles
    seed: int
    folder: Path
    on_step: Callable[[Progress], None] | None
    allow_imports: bool

    def part(self, spec: Spec | None, family: str, key: str) -> Any:
        """A named part of the stage, built, or None."""
        return compile_part(spec, family, f"{self.place}.{key}", allow_imports=self.allow_imports)

    def do(self) -> tuple[Outcome, States]:
        """Everything from the selection to the end of training; the model is a plain one again afterwards."""
        stage, roles, peak = self.stage, self.roles, PeakMemory()
        total = compile_objective(stage, self.place, allow_imports=self.allow_imports)
        for role, spec in stage.select.items():
            roles.selections[role] = self._selected(role, spec)
        torch.manual_seed(self.seed)
        working = self.model
        kind = compile_reference(stage.reference, self.place)
        origin = self._origin(kind, total)
        # Before an adapter that goes on is taken out of the weights, which rounds otherwise on another device.
        mark = agreed(lambda: fingerprint(self.model)) if total is not None and total.needs("ref") else ""
        if stage.lora is not None:
            working = low_rank.attach(working, stage.lora, self.trained.states, self.seed, f"{self.place}.lora")
        layers = compile_layers(stage.layers, f"{self.place}.layers", allow_imports=self.allow_imports)
        installed: list[Any] = []
        try:
            with explaining(self.place):
                reference = origin or self._reference(kind, total, working, mark)
                for layer in layers:
                    layer.install(working)
                    installed.append(layer)
                result = self._trained(working, total, kind, reference)
                count = sum(p.numel() for p in working.parameters() if p.requires_grad)
        finally:
            for layer in reversed(installed):
                layer.merge(working)
            if stage.lora is not None:
                low_rank.merge(working, self.model)
            roles.selections.clear()
        beside = {"name": stage.trains, "seconds": result.seconds, "parameters": count}
        notes = [beside] if stage.trains != "model" else []
        curves = result.curves | kept(result, self.folder)
        outcome = Outcome(result.steps, result.seconds, result.tokens, peak.bytes(), count, curves, notes)
        return outcome, result.states

    def _origin(self, kind: str | Slow, total: Total | None) -> Reference | None:
        """The model with which the plan began, where the stage asks for it; taken before an adapter is attached."""
        if kind != "start" or total is None or not total.needs("ref"):
            return None
        model = copy.deepcopy(self.model)
        model.load_state_dict(dict(self.trained.start))
        return Frozen(model)

    def _reference(self, kind: str | Slow, total: Total | None, model: nn.Module, mark: str) -> Reference | None:
        """The model as it is now, before any edit, in the cheapest form that is exact; ``mark`` is its fingerprint."""
        wanted = total.needs("ref") if total is not None else ()
        if total is None or not wanted or isinstance(kind, Slow):
            return None
        drawn = [r for r in wanted if r in self.roles.answers]
        if kind == "auto":
            kind = "copy" if drawn or total.taps_of("ref") else "cached"
        if kind == "cached":
            file = self.folder / REFERENCE
            agreed(lambda: self._store_reference(file, total, model, wanted, mark))
            stored = Cached.load(file)
            if stored.model not in ("", mark):
                raise RecipeError(
                    f"{self.place}: its model is not the one with which it began, of which {file} knows what it said;"
                    " choose another folder with --out, or delete that one."
                )
            return stored
        if kind == "adapter_off":
            return AdapterOff(model)
        return Copy(model)

    def _store_reference(self, file: Path, total: Total, model: nn.Module, wanted: Sequence[str], mark: str) -> None:
        """What the model says at the start of the stage, where a stage that was stopped is again before it goes on."""
        if file.exists():
            return
        half = torch.bfloat16 if self._training().precision == "bfloat16" else None
        stored = cache(self.roles, model, wanted, full=bool(total.needs("ref:logits")), autocast=half)
        stored.model = mark
        stored.save(file)

    def _training(self) -> Training:
        return compile_training(self.stage, self.place, allow_imports=self.allow_imports)

    def _selected(self, role: str, spec: Spec) -> Selection:
        """What a selector chooses of a role's rows; an error names it."""
        selector: Selector = self.part(spec, "selectors", f"select.{role}")
        with explaining(f"{self.place}.select.{role}"):
            return selector(self.roles.rows[role], self.model)

    def _trained(
        self, working: nn.Module, total: Total | None, kind: str | Slow, reference: Reference | None
    ) -> Result:
        """Edit, mask and training."""
        edit = self.part(self.stage.edit, "edits", "edit")
        if edit is not None:
            edit(working, self.roles, self.trained.companions).apply(working)
        masker = self.part(self.stage.mask, "masks", "mask")
        mask: Mask | None = masker(working, self.roles) if masker is not None else None
        made_equal([*working.parameters(), *working.buffers(), *(mask.moves.values() if mask is not None else ())])
        if isinstance(kind, Slow):  # it follows the weights that are trained, so it begins where they do
            reference = SlowAverage(working, kind.decay, kind.warm)
            if self.stage.lora is not None and self.stage.lora.continues:
                low_rank.resume_average(reference, self.trained.states)
        result = Result(0, 0.0, 0) if total is None else self._fit(working, total, reference, mask)
        fast = low_rank.factors(working) if self._leaves_adapter else {}
        if isinstance(kind, Slow) and isinstance(reference, SlowAverage) and kind.ends == "slow":
            reference.copy_to(working)
        return replace(result, states={**result.states, **self._adapter_states(working, fast, reference)})

    @property
    def _leaves_adapter(self) -> bool:
        """Whether a later stage may go on with this one's adapter; a companion's ends with its stage."""
        return self.stage.lora is not None and self.stage.trains == "model"

    def _adapter_states(self, working: nn.Module, fast: Mapping[str, Tensor], reference: Reference | None) -> States:
        """What a stage that goes on with the adapter needs, its slow average included."""
        if not self._leaves_adapter:
            return {}
        found = low_rank.left(fast, low_rank.factors(working), self.trained.states)
        if isinstance(reference, SlowAverage):
            found[low_rank.AVERAGE] = {n: v.detach().clone() for n, v in reference.state.state_dict().items()}
        return found

    def _fit(self, working: nn.Module, total: Total, reference: Reference | None, mask: Mask | None) -> Result:
        """The stage's own loop, or its procedure."""
        stage, trained, roles = self.stage, self.trained, self.roles
        training = self._training()
        common: dict[str, Any] = {"seed": self.seed, "reference": reference, "folder": self.folder}
        common |= {"on_step": self.on_step, "previous": trained.states}
        procedure = self.part(stage.procedure, "procedures", "procedure")
        if procedure is not None:
            done: Result = procedure(working, roles, total, training, **common)
            return done
        teacher = Frozen(trained.companions["teacher"]) if "teacher" in trained.companions else None
        common |= {"teacher": teacher, "combine": compile_combine(stage.combine, self.place), "mask": mask}
        if stage.watch is not None:
            _refuse_to_watch(trained, self.place)
            at = f"{self.place}.watch"
            common["watch"] = watch_of(stage.watch, at, roles, self.seed, self.folder, allow_imports=self.allow_imports)
        return _loop(training)(working, roles, total, training, **common)


def _refuse_to_watch(trained: Trained, place: str) -> None:
    """A model whose behavior an earlier stage bends would be measured without that."""
    if trained.interventions:
        raise RecipeError(f"{place}.watch: it would leave out an earlier stage's intervention; watch without that one.")


def _loop(training: Training) -> Callable[..., Result]:
    """The loop that the stage asks for."""
    if training.loop == "plain":
        return fit
    from palimpsest.hf import fit_with_trainer

    return fit_with_trainer
