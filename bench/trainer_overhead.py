"""What exact reduction over roles costs: our Trainer and our plain loop against a bare transformers Trainer.

    python bench/trainer_overhead.py [--steps 40] [--json FILE]

All three train the same model from the same weights on the same batches with the same fused AdamW: next-token
cross-entropy, gradients clipped to norm 1.  They take turns step by step, so that a busy machine slows all of
them; reported is the median over steps of the ratio of step times.  Goal: at most 1.03.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.audit import Row
from palimpsest.hf import fit_with_trainer
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.roles import Roles
from palimpsest.views import Example
from palimpsest.zoo.models import tiny_llama

WARMUP = 3


class Turns:
    """Lets several threads take one training step each in turn, and keeps the seconds each step took."""

    def __init__(self, names: list[str]) -> None:
        self.names, self.turn = names, 0
        self.seconds: dict[str, list[float]] = {n: [] for n in names}
        self.changed = threading.Condition()
        self.began: dict[str, float] = {}

    def wait(self, name: str) -> None:
        """Until it is this one's turn."""
        with self.changed:
            self.changed.wait_for(lambda: self.names[self.turn] == name)
        self.began[name] = time.perf_counter()

    def step(self, name: str) -> None:
        """Ends this one's step and waits for the next turn."""
        self.seconds[name].append(time.perf_counter() - self.began[name])
        with self.changed:
            self.turn = (self.turn + 1) % len(self.names)
            self.changed.notify_all()
        self.wait(name)

    def leave(self, name: str) -> None:
        """No further steps: the others go on without this one."""
        with self.changed:
            after = (
                self.names[(self.turn + 1) % len(self.names)]
                if self.names[self.turn] == name
                else self.names[self.turn]
            )
            self.names.remove(name)
            self.turn = self.names.index(after) if self.names else 0
            self.changed.notify_all()


def llama(width: int, layers: int, vocabulary: int) -> nn.Module:
    """A Llama of random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=1024,
    )
    return LlamaForCausalLM(config)


@dataclass(frozen=True, eq=False)
class Numbers(CausalLM):
    """Rows that hold token ids in place of text."""

    def encode(self, row: Row, place: str = "row") -> Example:
        return {"input_ids": row["ids"], "labels": row["ids"]}


def data(length: int, vocabulary: int) -> Roles:
    """Rows of random tokens, between half of ``length`` and ``length`` long."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(length // 2, length + 1, (64,), generator=generator).tolist()
    rows = [{"ids": torch.randint(3, vocabulary, (n,), generator=generator)} for n in lengths]
    return Numbers(tiny_llama()[1]).roles(task=rows)


class Micro(Dataset[dict[str, Tensor]]):
    """The batches that our loops see, as a bare Trainer wants them."""

    def __init__(self, roles: Roles, training: Training, steps: int) -> None:
        self.windows = [
            [{k: b["task"][k] for k in ("input_ids", "attention_mask", "labels")} for b in window]
            for window in (
                roles.window(s, training.batch, seed=0, accumulation=training.accumulation) for s in range(steps)
            )
        ]
        self.flat = [batch for window in self.windows for batch in window]

    def __len__(self) -> int:
        return len(self.flat)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        return self.flat[place]


def run_bare(
    model: nn.Module, micro: Micro, training: Training, folder: str, on_step: Callable[[object], None]
) -> None:
    """transformers.Trainer with its own loss; rows come in the given order."""
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    class Tell(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: object, state: object, control: object, **_: Any) -> None:
            on_step(state)

    arguments = TrainingArguments(
        folder,
        max_steps=training.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=training.accumulation,
        learning_rate=training.lr,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
    )
    trainer = Trainer(
        model, arguments, train_dataset=micro, data_collator=lambda batches: batches[0], callbacks=[Tell()]
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def measure(steps: int, accumulation: int, width: int, layers: int, vocabulary: int) -> dict[str, Any]:
    """One race of the three."""
    roles = data(128, vocabulary)
    training = Training(steps=steps + WARMUP, batch=8, accumulation=accumulation, lr=1e-4)
    start = llama(width, layers, vocabulary).train()
    models = {name: copy.deepcopy(start) for name in ("bare", "trainer", "plain")}
    turns, micro = Turns(list(models)), Micro(roles, training, steps + WARMUP)
    failures: list[BaseException] = []

    def racer(name: str, work: Callable[[Callable[[object], None]], object]) -> threading.Thread:
        def body() -> None:
            try:
                turns.wait(name)
                work(lambda _: turns.step(name))
            except BaseException as error:
                failures.append(error)
            finally:
                turns.leave(name)

        return threading.Thread(target=body)

    with tempfile.TemporaryDirectory() as folder:
        objective = on("task", CrossEntropy())
        threads = [
            racer("bare", lambda tell: run_bare(models["bare"], micro, training, folder, tell)),
            racer(
                "trainer", lambda tell: fit_with_trainer(models["trainer"], roles, objective, training, on_step=tell)
            ),
            racer("plain", lambda tell: fit(models["plain"], roles, objective, training, on_step=tell)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    flat = {n: torch.cat([p.detach().flatten() for p in m.parameters()]) for n, m in models.items()}
    seconds = {n: v[WARMUP:] for n, v in turns.seconds.items()}
    return {
        "parameters": sum(p.numel() for p in start.parameters()),
        "batch": 8,
        "accumulation": accumulation,
        "seconds_per_step_bare": statistics.median(seconds["bare"]),
        **{
            f"ratio_{n}": statistics.median([own / b for own, b in zip(seconds[n], seconds["bare"])])
            for n in ("trainer", "plain")
        },
        "largest_difference_of_weights": float(max((flat[n] - flat["bare"]).abs().max() for n in ("trainer", "plain"))),
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [measure(options.steps, accumulation, 320, 8, 8192) for accumulation in (1, 4)]
    print(
        f"{'parameters':>12} {'batch':>6} {'accumulation':>13} {'bare s/step':>12} {'Trainer':>9} {'plain':>9}  weights"
        " differ by"
    )
    for row in rows:
        print(
            f"{row['parameters']:>12,} {row['batch']:>6} {row['accumulation']:>13}"
            f" {row['seconds_per_step_bare']:>12.3f} {row['ratio_trainer']:>8.3f}x {row['ratio_plain']:>8.3f}x "
            f" {row['largest_difference_of_weights']:.1e}"
        )
    if options.json:
        machine = {
            "machine": platform.processor() or platform.machine(),
            "threads": options.threads,
            "torch": torch.__version__,
        }
        options.json.write_text(
            json.dumps({"what": "trainer_overhead", **machine, "rows": rows}, indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
