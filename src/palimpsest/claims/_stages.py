"""A tiny decoder that is taught facts in stages, and one that goes on to read documents of a new domain."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.audit import Row, Scores
from palimpsest.claims._facts import decoder, recall, word_tokenizer
from palimpsest.loop import Training, fit
from palimpsest.objective import Term, Total, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.roles import Roles
from palimpsest.schedules.cosine import Cosine
from palimpsest.selectors._ngram import words_of
from palimpsest.selectors.quality_subset import QualitySubset
from palimpsest.watch import Watch, Watched

__all__ = ["ARMS", "STREAMS", "Arm", "Reading", "StreamMethod", "reading", "share_of_clean", "stream_cells"]

SUBJECTS, RELATIONS, VALUES = 160, 4, 60
STAGES = 3
StreamMethod = Literal["sequential", "replay", "joint"]
STREAMS: tuple[StreamMethod, ...] = ("sequential", "replay", "joint")


def _facts(subject: int) -> list[tuple[str, str]]:
    """(relation, the two words of the answer) of a subject."""
    draw = random.Random(f"stages/{subject}")
    return [(f"r{r}", f"v{draw.randrange(VALUES)} v{draw.randrange(VALUES)}") for r in range(RELATIONS)]


def _questions(subjects: Sequence[int]) -> list[Row]:
    return [
        {"id": f"s{s}/{relation}", "prompt": f"s{s} {relation}", "completion": answer}
        for s in subjects
        for relation, answer in _facts(s)
    ]


def _document(subject: int, version: int) -> str:
    """All facts of a subject as prose, in an order of the version's own."""
    facts = _facts(subject)
    random.Random(f"version/{subject}/{version}").shuffle(facts)
    return f"about s{subject} : " + " ".join(f"{relation} {answer} ." for relation, answer in facts)


def _noise(text: str, seed: str) -> str:
    """The same words in any order."""
    words = text.split()
    random.Random(seed).shuffle(words)
    return " ".join(words)


@cache
def _adapter() -> CausalLM:
    kinds = {"s": SUBJECTS, "r": RELATIONS, "v": VALUES}
    return CausalLM(word_tokenizer(["about", ":", ".", *(f"{k}{i}" for k, n in kinds.items() for i in range(n))]))


def _decoder(seed: int, device: torch.device) -> nn.Module:
    model: nn.Module = decoder(len(_adapter().tokenizer) - 2, 2, 64, seed)
    return model.to(device)


def _taught(
    model: nn.Module, roles: Roles, objective: Total | Term, training: Training, seed: int, watch: Watch | None = None
) -> Watched | None:
    return fit(model, roles, objective, training, seed=seed, watch=watch).watched


@cache
def _generalist(seed: int, device: torch.device) -> nn.Module:
    """A decoder that knows the 60 general facts, once a process; never change it."""
    model = _decoder(seed, device)
    roles = _adapter().roles(task=_questions(range(15)))
    _taught(model, roles, on("task", CrossEntropy()), Training(steps=150, batch=30, lr=5e-3), seed)
    return model


def stream_cells(method: StreamMethod, seed: int, device: torch.device) -> list[list[Scores]]:
    """``cells[stage][task]`` of general facts and of three stages of 60 facts, in an order of the seed's own.

    Replay adds half of all earlier facts, general ones too, with the weight of the new ones; joint training has all.
    """
    order = random.Random(f"order/{seed}").sample(range(STAGES), STAGES)
    tasks = [_questions(range(15)), *(_questions(range(15 + 15 * i, 30 + 15 * i)) for i in order)]
    adapter, model = _adapter(), copy.deepcopy(_generalist(seed, device))
    cells = [[recall(adapter, model, rows) for rows in tasks]]
    for stage in range(1, STAGES + 1):
        earlier = [row for rows in tasks[:stage] for row in rows]
        rows = {"task": tasks[stage]} if method == "sequential" else {"task": tasks[stage], "replay": earlier}
        if method == "replay":
            rows["replay"] = earlier[::2]
        term = on("task", CrossEntropy())
        objective = term if method == "sequential" else term + on("replay", CrossEntropy()) * (1.0 * stage)
        training = Training(steps=100, batch=30, lr=3e-3)
        _taught(model, Roles(adapter, rows), objective, training, seed + stage)
        cells.append([recall(adapter, model, rows) for rows in tasks])
    return cells


Arm = Literal["all once", "subset", "good subset", "good subset and mixture"]
ARMS: tuple[Arm, ...] = ("all once", "subset", "good subset", "good subset and mixture")
GENERAL, DOMAIN, OUTSIDE = range(30), range(30, 70), range(100, 160)
KNOWN = range(30, 50)
"""The half of the domain's subjects that the decoder knows before it reads about the domain."""
VERSIONS, BATCH, SHARE, WEB = 8, 8, 5, 0.82


@dataclass(frozen=True)
class Reading:
    """Recall of the domain's facts on the way, and of the general facts before and after."""

    watched: Watched
    general_before: float
    general_after: float


def _corpus() -> list[Row]:
    """Eight versions of each document of the domain, and as many of shuffled words."""
    clean = [(f"d{s}/{v}", _document(s, v)) for s in DOMAIN for v in range(VERSIONS)]
    noise = [(f"n{name}", _noise(text, name)) for name, text in clean]
    return [{"id": name, "text": text} for pair in zip(clean, noise, strict=True) for name, text in pair]


def _good(corpus: Sequence[Row]) -> list[Row]:
    """A fifth of the corpus: the documents most like those about subjects that no model is asked about."""
    words = sum(len(words_of(str(row["text"]))) for row in corpus) // SHARE
    texts = tuple(_document(s, v) for s in OUTSIDE for v in range(2))
    return [corpus[i] for i in QualitySubset(words=words, reference=texts)(corpus).index.tolist()]


def _pretraining() -> list[Row]:
    """Documents and questions about general subjects and the known half of the domain."""
    subjects = [*GENERAL, *KNOWN]
    documents = [{"id": f"p{s}/{v}", "text": _document(s, 100 + v)} for s in subjects for v in range(4)]
    return [*documents, *_questions(subjects)]


@cache
def _reader(seed: int, device: torch.device) -> nn.Module:
    """A decoder after pre-training, once a process; never change it."""
    model = _decoder(seed, device)
    roles = _adapter().roles(task=_pretraining())
    training = Training(steps=500, batch=32, lr=4e-3, warmup=0.05, schedule=Cosine())
    _taught(model, roles, on("task", CrossEntropy()), training, seed)
    return model


def share_of_clean() -> float:
    """Of the documents that the n-gram model chooses, how many are not noise."""
    chosen = _good(_corpus())
    return sum(str(row["id"]).startswith("d") for row in chosen) / len(chosen)


def _rows_of(arm: Arm, seed: int) -> list[Row]:
    corpus = _corpus()
    if arm == "all once":
        return corpus
    if arm == "subset":
        return random.Random(f"subset/{seed}").sample(corpus, len(corpus) // SHARE)
    return _good(corpus)


def reading(arm: Arm, seed: int, device: torch.device) -> Reading:
    """80 steps of 8 documents, whatever the arm: the corpus once or a fifth of it five times.

    The mixture weighs pre-training rows with 0.18 and the domain's documents with 0.82, as many rows of each a step.
    """
    adapter, model = _adapter(), copy.deepcopy(_reader(seed, device))
    rows: Mapping[str, Sequence[Row]] = {"domain": _rows_of(arm, seed), "general": _pretraining()}
    objective: Total | Term = on("domain", CrossEntropy())
    if arm == "good subset and mixture":
        objective = on("domain", CrossEntropy()) * WEB + on("general", CrossEntropy()) * (1 - WEB)
    asked, general = _questions(DOMAIN), _questions(GENERAL)
    watch = Watch(2, lambda m: {"domain": float(recall(adapter, m, asked).items.mean())})
    training = Training(steps=len(_corpus()) // BATCH, batch=BATCH, lr=1e-3, warmup=0.1, schedule=Cosine())
    before = float(recall(adapter, model, general).items.mean())
    watched = _taught(model, Roles(adapter, rows), objective, training, seed, watch)
    assert watched is not None
    return Reading(watched, before, float(recall(adapter, model, general).items.mean()))
