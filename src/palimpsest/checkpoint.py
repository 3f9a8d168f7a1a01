"""Files that are written whole or not at all, and the state of a training run.

Tensors are stored as safetensors and everything else as JSON: nothing here is ever unpickled.  A checkpoint is
a folder that appears under its name only when it is complete, so a run that is killed at any point finds the
last complete one.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "Checkpoint",
    "Unwritable",
    "append_line",
    "flat_states",
    "flush",
    "latest",
    "nested_states",
    "read_tensors",
    "restore",
    "restore_states",
    "save",
    "state_tensors",
    "unwritable",
    "write_json",
    "write_tensors",
    "write_text",
]


def flush(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: Path, error: Exception) -> OSError:
    """The sentence for a full disk or a forbidden folder; an error that has its sentence already stays as it is."""
    if isinstance(error, Unwritable):
        return error
    why = error.strerror if isinstance(error, OSError) and error.strerror else error
    return Unwritable(f"{path} could not be written ({why}); free some space or choose another folder.")


class Unwritable(OSError):
    """A file could not be written; what stood under its name before is untouched."""


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` that takes its place when the block ends well, and disappears otherwise.

    Who may read the file follows the process's umask, whatever its writer sets (safetensors, that only the owner may).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        if temporary.stat().st_mode != mode:
            temporary.chmod(stat.S_IMODE(mode))
        flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with _replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically; a number that is not finite is an error here, not in the reader."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False))


def append_line(path: Path, line: str) -> None:
    """Adds a line to a text file; the beginning of one that a killed process has left at its end is written over."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.truncate(_end_of_lines(file))
            file.seek(0, os.SEEK_END)
            file.write(line.encode("utf-8") + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise unwritable(path, error) from error


def _end_of_lines(file: BinaryIO) -> int:
    """Where the last whole line of a file ends; all of it is read only if the last line is not whole."""
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            return file.read().rfind(b"\n") + 1
    return size


def write_tensors(path: Path, tensors: Mapping[str, Tensor], constants: Mapping[str, Any] | None = None) -> None:
    """Writes tensors (and JSON constants beside them) as one safetensors file, atomically; the same in the same bytes.

    Without constants transformers loads it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # Two names may share one storage (tied weights); safetensors refuses that, so each name gets its own copy.
    seen: set[int] = set()
    own = {}
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        pointer = value.untyped_storage().data_ptr()
        own[name] = value.clone() if pointer in seen else value
        seen.add(pointer)
    with _replacing(path) as temporary:
        try:
            # One entry: safetensors writes several in an order of its own, another one each time.
            metadata = {"constants": json.dumps(dict(constants))} if constants else {"format": "pt"}
            save_file(own, str(temporary), metadata=metadata)
        except SafetensorError as error:  # a full disk arrives here in this disguise
            raise OSError(str(error)) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what ``write_tensors`` wrote: the tensors and the constants."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return tensors, json.loads((file.metadata() or {}).get("constants", "{}"))
    except (SafetensorError, OSError) as error:
        raise OSError(
            f"{path} could not be read ({error}); delete it to start again from the last complete file."
        ) from error


class Checkpoint:
    """One complete checkpoint folder: ``step`` and ``extra`` (JSON), tensors read on demand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        record = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        self.step: int = record["step"]
        self.extra: dict[str, Any] = record["extra"]
        self.optimizer: dict[str, Any] = record["optimizer"]
        self.random: dict[str, Any] = record["random"]


def latest(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint in ``folder``, or None."""
    found = sorted(folder.glob("step-*/state.json")) if folder.is_dir() else []
    return Checkpoint(found[-1].parent) if found else None


def _split_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state as tensors by name and everything else as JSON."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{name}"] = value
            else:
                plain.setdefault(str(index), {})[name] = value
    return tensors, {"state": plain, "param_groups": state["param_groups"]}


def _random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64))}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    version, internal, gauss = random.getstate()
    return tensors, {
        "numpy": [kind, int(position), int(has_gauss), float(cached)],
        "python": [version, list(internal), gauss],
    }


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    states: Mapping[str, nn.Module | None],
    extra: Mapping[str, Any],
    keep: int = 1,
) -> None:
    """Writes ``folder/step-<n>`` and then deletes all but the newest ``keep`` checkpoints.

    Trainable parameters, buffers, the optimizer, the objectives' states and the random generators are kept;
    frozen parameters are not, since the stage starts from files that have them.
    """
    target = folder / f"step-{step:08d}"
    if (target / "state.json").is_file():  # the state of this step is there already
        return
    temporary = folder / f".{target.name}.{os.getpid()}.tmp"
    try:
        for left in folder.glob(".step-*.tmp"):  # of a process that was killed while it wrote
            shutil.rmtree(left)
        temporary.mkdir(parents=True)
        write_tensors(temporary / "model.safetensors", moving(model))
        optimizer_tensors, optimizer_plain = _split_optimizer(optimizer)
        write_tensors(temporary / "optimizer.safetensors", optimizer_tensors)
        write_tensors(temporary / "objectives.safetensors", state_tensors(states))
        random_tensors, random_plain = _random_state()
        write_tensors(temporary / "random.safetensors", random_tensors)
        record = {"step": step, "extra": dict(extra), "optimizer": optimizer_plain, "random": random_plain}
        write_json(temporary / "state.json", record)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
        flush(folder)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def state_tensors(states: Mapping[str, nn.Module | None]) -> dict[str, Tensor]:
    """The tensors of several modules by ``name/tensor``."""
    return {f"{n}/{k}": v for n, m in states.items() if m is not None for k, v in m.state_dict().items()}


def restore_states(states: Mapping[str, nn.Module | None], stored: Mapping[str, Tensor]) -> None:
    """Puts back what ``state_tensors`` gave."""
    for name, module in states.items():
        if module is not None:
            prefix = f"{name}/"
            module.load_state_dict({k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)})


def flat_states(states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What objectives leave to later stages, by ``method/tensor``."""
    return {f"{method}/{name}": value for method, own in states.items() for name, value in own.items()}


def nested_states(flat: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """What ``flat_states`` took: method -> its tensors."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in flat.items():
        method, _, name = key.partition("/")
        found.setdefault(method, {})[name] = value
    return found


def moving(model: nn.Module) -> dict[str, Tensor]:
    """What training may change: the trainable parameters and the buffers that are part of the model's state."""
    state = model.state_dict(keep_vars=True)
    return {n: v.detach() for n, v in state.items() if not isinstance(v, nn.Parameter) or v.requires_grad}


def restore(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    states: Mapping[str, nn.Module | None],
) -> None:
    """Puts everything back exactly as ``save`` found it."""
    tensors, _ = read_tensors(checkpoint.folder / "model.safetensors")
    missing = model.load_state_dict(tensors, strict=False).unexpected_keys
    absent = [n for n in moving(model) if n not in tensors]
    if missing or absent:
        raise ValueError(
            f"{checkpoint.folder} belongs to another model (it lacks or has too many weights, such as "
            f"{(list(missing) + absent)[0]!r}); choose another run folder."
        )
    flat, _ = read_tensors(checkpoint.folder / "optimizer.safetensors")
    state: dict[int, dict[str, Any]] = {int(i): dict(v) for i, v in checkpoint.optimizer["state"].items()}
    for key, value in flat.items():
        index, name = key.split("/", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": checkpoint.optimizer["param_groups"]})
    _laid_out_alike(optimizer)
    stored, _ = read_tensors(checkpoint.folder / "objectives.safetensors")
    restore_states(states, stored)
    _restore_random(checkpoint)


def _laid_out_alike(optimizer: torch.optim.Optimizer) -> None:
    """Gives the optimizer's tensors the strides of their parameters, as they had when they were made.

    Files hold contiguous tensors, and the fused optimizers of the CPU walk both as if they were laid out alike.
    """
    for parameter, own in optimizer.state.items():
        for name, value in own.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                own[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _restore_random(checkpoint: Checkpoint) -> None:
    tensors, _ = read_tensors(checkpoint.folder / "random.safetensors")
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
    kind, position, has_gauss, cached = checkpoint.random["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = checkpoint.random["python"]
    random.setstate((version, tuple(internal), gauss))
