"""One process of the test of ``Sharded``: rank, world, a file to meet at, and a file to write the answers to."""

import sys

import torch
import torch.distributed as dist

from palimpsest import processes
from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.adapters.classifier import Classifier
from palimpsest.audits.privacy_leakage import PrivacyLeakage
from palimpsest.audits.relearning import Relearning
from palimpsest.sharded_subject import Sharded
from palimpsest.zoo.authors import articles, authors
from palimpsest.zoo.models import tiny_llama


def answers() -> dict[str, object]:
    """Every question, over row counts that two processes cannot split evenly, and over a single row."""
    model, tokenizer = tiny_llama(width=32)
    with torch.no_grad():  # larger weights, since a fresh model says the same whatever it is asked
        for name, weight in model.named_parameters():
            weight.mul_(15 if "layers" in name and weight.ndim > 1 else 1)
    text = Sharded(CausalLM(tokenizer).subject(model))
    torch.manual_seed(0)
    linear = torch.nn.Linear(2, 3)
    classes = Sharded(Classifier(classes=3).subject(linear))
    rows, points = authors(5, 1), [{"inputs": [float(i), 1.0], "label": i % 3} for i in range(5)]
    data = {"forget": rows, "holdout": articles(3, part="holdout")}
    return {
        "logp": text.logp(rows),
        "one": text.logp(rows[:1]),
        "matches": text.matches(rows),
        "embed": text.embed(rows),
        "generate": text.generate(rows, 6),
        "sample": text.sample(rows, 4, count=2, seeds=range(5)),
        "truncate": text.truncate(["one two three"], 2),
        "predict": classes.predict(points),
        "privacy_leakage": PrivacyLeakage()(text, data, "forget").items,
        "relearning": Relearning("perplexity", steps=2, batch=4, lr=1e-2)(text, data, "forget").items,
        "failure": failure(text, rows),
        **agreement(),
    }


def agreement() -> dict[str, object]:
    """What every process makes of something that differs between them, and of a failure of the first."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    values, moves = torch.full((3, 2), rank + 0.5), torch.tensor([rank == 0, True])
    processes.made_equal([values.T, moves])

    def fail() -> None:
        raise ValueError(f"process {rank} cannot write")

    try:
        processes.agreed(fail)
        heard = "nothing was raised"
    except ValueError as error:
        heard = str(error)
    turns = processes.one_after_the_other(lambda: f"made by {rank}")
    return {"agreed": processes.agreed(lambda: rank), "heard": heard, "turns": turns, "equal": [values, moves]}


def failure(text: Sharded, rows: list) -> str:
    """What every process hears when the last row, which only one of them holds, cannot be read."""
    try:
        text.logp([*rows, {"id": "broken"}])
    except (RuntimeError, ValueError) as error:
        return str(error)
    return "nothing was raised"


if __name__ == "__main__":
    rank, world, meet, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
    torch.save(answers(), out)
    dist.destroy_process_group()
