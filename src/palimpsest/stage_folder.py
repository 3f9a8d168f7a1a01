"""What a finished stage leaves on the disk: a folder for its model, and nothing in it of the rows it was trained on.

<n>-<stage>/model.safetensors       the weights; of a language model, config and tokenizer lie beside them
<n>-<stage>/outcome.json            what it cost and its curves; a stage without this file is not finished
<n>-<stage>.states.safetensors      what its objectives leave to later stages, beside the folder: some keep tokens
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from palimpsest.checkpoint import flat_states, nested_states, read_tensors, write_json, write_tensors
from palimpsest.step import States

__all__ = ["REFERENCE", "Outcome", "WritesConfig", "keep", "kept_outcome", "kept_states", "tidy", "tidy_all"]

OUTCOME, STATES, REFERENCE = "outcome.json", "states.safetensors", "reference.safetensors"


@runtime_checkable
class WritesConfig(Protocol):
    """An adapter whose models other programs can load, from weights and a description beside them."""

    def write_config(self, model: nn.Module, folder: Path) -> None:
        """Writes into ``folder`` all that is needed beside ``model.safetensors``."""
        ...


@dataclass(frozen=True)
class Outcome:
    """Cost and curves of a stage."""

    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    peak_memory_bytes: int | None = None
    trainable_parameters: int | None = None
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    companions: list[dict[str, Any]] = field(default_factory=list)

    @staticmethod
    def joined(outcomes: Sequence[Outcome]) -> Outcome:
        """The cost of several stages together."""
        peaks = [o.peak_memory_bytes for o in outcomes if o.peak_memory_bytes is not None]
        sizes = [o.trainable_parameters for o in outcomes if o.trainable_parameters is not None]
        return Outcome(
            sum(o.steps for o in outcomes),
            sum(o.seconds for o in outcomes),
            sum(o.tokens for o in outcomes),
            max(peaks, default=None),
            max(sizes, default=None),
            companions=[c for o in outcomes for c in o.companions],
        )


def keep(
    folder: Path,
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    states: States,
    outcome: Outcome,
    whole: WritesConfig | None,
) -> None:
    """Writes what a finished stage made, if it made anything, in place of its checkpoints.

    ``whole`` describes a model that is written as a whole, so that the folder loads as a model of its own.
    """
    if tensors:
        write_tensors(folder / "model.safetensors", tensors)
        if whole is not None:
            whole.write_config(model, folder)
        if states:
            write_tensors(_states_of(folder), flat_states(states))
        write_json(folder / OUTCOME, {f.name: getattr(outcome, f.name) for f in fields(Outcome)})
    tidy(folder)


def kept_outcome(folder: Path) -> Outcome | None:
    """The outcome of a stage, None where it is not finished."""
    file = folder / OUTCOME
    return Outcome(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def kept_states(folder: Path) -> dict[str, dict[str, Tensor]]:
    """What the objectives of a finished stage left."""
    file = _states_of(folder)
    return nested_states(read_tensors(file)[0]) if file.exists() else {}


def tidy(folder: Path) -> None:
    """Deletes what only an unfinished stage needs, which lies there too after a kill, or from earlier code.

    That is its checkpoints, and what its reference said of its rows, with their tokens; states go beside the folder.
    """
    for old in (*folder.glob("step-*"), *folder.glob("checkpoint-*")):  # of the plain loop, of the Trainer
        shutil.rmtree(old, ignore_errors=True)
    for file in (folder / REFERENCE, *folder.glob("round-*.safetensors")):  # the latter by procedures with rounds
        file.unlink(missing_ok=True)
    inside, beside = folder / STATES, _states_of(folder)
    if inside.exists():
        inside.unlink() if beside.exists() else os.replace(inside, beside)


def tidy_all(out: Path) -> None:
    """The same for every finished stage of a run."""
    for done in out.glob(f"seed-*/*/*/{OUTCOME}"):
        tidy(done.parent)


def _states_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.{STATES}")
