"""A tiny decoder that knows random facts by heart, on which the claims of unlearning papers are tested.

A fact is a subject, a relation and three random words.  The forget set is all that is known of a tenth of the
subjects; half of the other facts are the retain set, the rest is never seen during unlearning.  Of some strangers the
decoder has learned to say that it does not know.  The facts are the same for every seed: seeds change the decoder's
first weights and the order of the data.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.audit import Row, Scores, row_ids
from palimpsest.claim import Budget, Figure
from palimpsest.claims._evidence import figure, over_seeds
from palimpsest.loop import Progress, Training, fit
from palimpsest.objective import Term, Total, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.reference import Copy
from palimpsest.roles import Answers, Roles
from palimpsest.schedules.ramp import Ramp
from palimpsest.statistics import Interval, bootstrap_over_seeds

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = [
    "SIZES",
    "Facts",
    "Trajectory",
    "World",
    "decoder",
    "device_of",
    "learned",
    "recall",
    "unlearned",
    "word_tokenizer",
]

REFUSAL = "i dont know"
FORGOTTEN = 0.05
"""A forget recall at or below this counts as forgotten."""


@dataclass(frozen=True)
class World:
    """The facts, and how long a decoder of ``layers`` x ``width`` learns them. ``values`` is the number of words."""

    subjects: int = 250
    relations: int = 4
    strangers: int = 25
    values: int = 100
    layers: int = 3
    width: int = 128
    steps: int = 400
    batch: int = 128
    lr: float = 3e-3

    @property
    def known(self) -> list[Row]:
        """All facts, subject by subject."""
        generator = random.Random("facts")
        return [
            {
                "id": f"s{s}/r{r}",
                "prompt": f"s{s} r{r}",
                "completion": " ".join(f"v{generator.randrange(self.values)}" for _ in range(3)),
            }
            for s in range(self.subjects)
            for r in range(self.relations)
        ]

    @property
    def refused(self) -> list[Row]:
        """Prompts about strangers, and the refusal."""
        return [
            {"id": f"u{s}/r{r}", "prompt": f"u{s} r{r}", "completion": REFUSAL}
            for s in range(self.strangers)
            for r in range(self.relations)
        ]

    @property
    def words(self) -> list[str]:
        """The vocabulary."""
        kinds = {"s": self.subjects, "u": self.strangers, "r": self.relations, "v": self.values}
        return [*REFUSAL.split(), *(f"{kind}{i}" for kind, count in kinds.items() for i in range(count))]

    @property
    def forget(self) -> list[Row]:
        """All that is known of the first tenth of the subjects."""
        return self.known[: self.subjects // 10 * self.relations]

    @property
    def retain(self) -> list[Row]:
        """Every other one of the remaining facts: those that unlearning may look at."""
        return self.known[len(self.forget) :][::2]

    @property
    def unseen(self) -> list[Row]:
        """The facts that are to be kept and that unlearning never sees."""
        return self.known[len(self.forget) :][1::2]


SIZES: Mapping[Budget, World] = {
    "cpu": World(),
    "gpu": World(subjects=1000, strangers=100, values=300, layers=4, width=256, steps=2000, batch=256, lr=1e-3),
}


@dataclass(frozen=True)
class Facts:
    """A decoder that knows its world."""

    world: World
    model: nn.Module
    adapter: CausalLM
    recall: float


def device_of(budget: Budget) -> torch.device:
    """Where a budget's experiments run."""
    return torch.device("cuda" if budget == "gpu" else "cpu")


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A token a word, split at spaces; no begin or end is added."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unknown>", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unknown>")


def decoder(
    words: int, layers: int, width: int, seed: int, positions: int = 64, spread: float = 0.02
) -> LlamaForCausalLM:
    """A Llama of that size with random weights; ``words`` is the size of the vocabulary without specials.

    ``spread`` is the weights' standard deviation: a narrow decoder learns by heart much sooner from larger ones.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=words + 2,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=positions,
        initializer_range=spread,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


@cache
def learned(world: World, seed: int, device: torch.device) -> Facts:
    """A decoder trained from scratch on all facts and on refusing strangers, once a process; never change its model.

    Raises ``ValueError`` where it does not know 98 of 100, since nothing could then be said of forgetting.
    """
    model = decoder(len(world.words), world.layers, world.width, seed).to(device)
    adapter = CausalLM(word_tokenizer(world.words))
    roles = adapter.roles(task=[*world.known, *world.refused])
    training = Training(steps=world.steps, batch=world.batch, lr=world.lr, warmup=0.05, schedule=Ramp(1.0, 0.0))
    fit(model, roles, on("task", CrossEntropy()), training, seed=seed)
    known = float(recall(adapter, model, world.known).items.mean())
    if known < 0.98:
        raise ValueError(f"The decoder learned only {known:.0%} of the facts with seed {seed}; train it longer.")
    return Facts(world, model, adapter, known)


def recall(adapter: CausalLM, model: nn.Module, rows: Sequence[Row]) -> Scores:
    """1 for each row whose whole answer is the model's greedy one, else 0."""
    right = [float(matches.all()) for matches in adapter.subject(model).matches(rows)]
    return Scores("recall", torch.tensor(right, dtype=torch.float64), row_ids(rows, "fact"))


@dataclass
class Trajectory:
    """What one unlearning run did, up to the step at which the forget set was forgotten, or the last.

    ``forget`` holds the forget recall after each step, ``lost`` for each forget row the first step after which it was
    not recalled (the number of steps plus one where that never happened), ``losses`` the forget term's values.
    """

    model: nn.Module
    reached: bool = False
    steps: int = 0
    seconds: float = 0.0
    forget: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)

    def note(self, progress: Progress, scores: Scores, measuring: float) -> None:
        """Takes a step down, with the forget recall after it; ``measuring`` seconds so far were not training."""
        self.steps = progress.step
        self.seconds = progress.seconds - measuring
        self.forget.append(float(scores.items.mean()))
        self.losses.append(next(iter(progress.parts.values())))
        for key, value in zip(scores.ids, scores.items.tolist()):
            if not value:
                self.lost.setdefault(key, progress.step)

    def steps_lost(self, rows: Sequence[Row], limit: int) -> Scores:
        """``lost`` as one value a row; rows that were never lost count ``limit`` + 1."""
        items = [float(self.lost.get(key, limit + 1)) for key in row_ids(rows, "fact")]
        return Scores("steps", torch.tensor(items, dtype=torch.float64), row_ids(rows, "fact"), better="lower")


class _Reached(Exception):
    """The forget set is forgotten; the run ends here."""


def unlearned(
    facts: Facts,
    objective: Total | Term,
    *,
    lr: float,
    steps: int,
    seed: int,
    model: nn.Module | None = None,
    target: float = FORGOTTEN,
    reference: bool = True,
) -> Trajectory:
    """Trains a copy of the decoder (or ``model`` itself) with roles forget, retain and refusal, which answers forget.

    It ends after the first step with a forget recall of at most ``target``, or after ``steps``.  Time spent on
    measuring does not count.
    """
    world = facts.world
    trained = copy.deepcopy(facts.model) if model is None else model
    answers = {"refusal": Answers("forget", "completion", (REFUSAL,))}
    roles = Roles(facts.adapter, {"forget": world.forget, "retain": world.retain}, answers=answers)
    found = Trajectory(trained)
    measuring = 0.0

    def watch(progress: Progress) -> None:
        nonlocal measuring
        start = time.perf_counter()
        found.note(progress, recall(facts.adapter, trained, world.forget), measuring)
        measuring += time.perf_counter() - start
        if found.forget[-1] <= target:
            raise _Reached

    training = Training(steps=steps, batch=min(32, len(world.forget)), lr=lr, clip=None)
    frozen = Copy(trained) if reference else None
    try:
        fit(trained, roles, objective, training, seed=seed, reference=frozen, on_step=watch)
    except _Reached:
        found.reached = True
    trained.eval()
    return found


@dataclass(frozen=True)
class Kept:
    """What was left of the facts to be kept at the step at which the forget set was forgotten, a run a seed.

    ``scores`` are the recall of all of them, ``unseen`` of those that unlearning never saw; ``missed`` counts the runs
    that ended without forgetting.
    """

    scores: list[Scores]
    unseen: list[Scores]
    steps: Interval
    missed: int
    runs: list[Trajectory]

    @property
    def mean(self) -> float:
        """Recall of all facts to be kept, over seeds."""
        return float(torch.stack([s.items.mean() for s in self.scores]).mean())

    def figures(self, name: str) -> list[Figure]:
        """What is kept and after how many steps, of a method called ``name``."""
        return [
            figure(f"recall of what is kept, {name}", bootstrap_over_seeds(self.scores)),
            figure(f"of it never replayed, {name}", bootstrap_over_seeds(self.unseen)),
            figure(f"steps to forget, {name}", self.steps),
        ]


def kept_when_forgotten(
    known: Sequence[Facts], seeds: Sequence[int], objective: Total | Term, lr: float, steps: int
) -> Kept:
    """Unlearns each seed's decoder until it has forgotten and measures what it kept."""
    runs = [
        unlearned(facts, objective, lr=lr, steps=steps, seed=seed) for facts, seed in zip(known, seeds, strict=True)
    ]
    return what_is_kept(known, runs)


def what_is_kept(known: Sequence[Facts], runs: Sequence[Trajectory]) -> Kept:
    """The facts to be kept that each run's model still knows."""
    scores, unseen = [], []
    for facts, run in zip(known, runs, strict=True):
        world = facts.world
        scores.append(recall(facts.adapter, run.model, [*world.retain, *world.unseen]))
        unseen.append(recall(facts.adapter, run.model, world.unseen))
    missed = sum(not run.reached for run in runs)
    return Kept(scores, unseen, over_seeds([float(run.steps) for run in runs]), missed, list(runs))
