"""A tiny decoder that has read made-up news, its twin that never saw the articles to be forgotten, and MUSE's audits.

An article has four sentences about one subject: the subject, a relation, two random words and a stop.  It is printed
twice, the second time with its halves exchanged; the questions ask for the sentences that begin a print.  The
articles are the same for every seed: seeds change the decoder's first weights and the order of the data.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

from torch import nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.audit import Row, Scores
from palimpsest.audits.knowledge_memorization import KnowledgeMemorization
from palimpsest.audits.privacy_leakage import PrivacyLeakage
from palimpsest.audits.verbatim_memorization import VerbatimMemorization
from palimpsest.claim import Budget
from palimpsest.claims._facts import decoder, word_tokenizer
from palimpsest.edits.task_vector import TaskVector
from palimpsest.interventions.whos_harry_potter import WhosHarryPotter
from palimpsest.loop import Progress, Training, fit
from palimpsest.objective import Term, Total, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.gradient_ascent import GradientAscent
from palimpsest.objectives.kl_to_reference import KLToReference
from palimpsest.objectives.npo import NPO
from palimpsest.procedures.full_copy import FullCopy
from palimpsest.procedures.request_sweep import first_reaching
from palimpsest.reference import Copy
from palimpsest.roles import Roles
from palimpsest.schedules.ramp import Ramp

__all__ = ["ALPHAS", "METHODS", "REINFORCED", "Left", "News", "Readers", "readers", "reinforced", "taken", "unlearn"]

_SCORED = 19
"""Scored tokens of an article: NPO sums over them, the other losses average, so it is divided by this."""

_GDR, _KLR = on("retain", CrossEntropy()), on("retain", KLToReference())
METHODS: Mapping[str, Total | Term] = {
    "GA": on("forget", GradientAscent()),
    "GA+GDR": on("forget", GradientAscent()) + _GDR,
    "GA+KLR": on("forget", GradientAscent()) + _KLR,
    "NPO": on("forget", NPO(0.1)) * (1 / _SCORED),
    "NPO+GDR": on("forget", NPO(0.1)) * (1 / _SCORED) + _GDR,
    "NPO+KLR": on("forget", NPO(0.1)) * (1 / _SCORED) + _KLR,
}
"""MUSE's names of its baselines; GDR replays the retain set, KLR holds the model near its start on it."""

REINFORCED = ("TV", "WHP")
"""Those that train a copy further on the forget set, and take away what it learned."""
ALPHAS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""How much of it, in the order in which it is tried."""


@dataclass(frozen=True)
class News:
    """Numbers of articles: to forget, to replay, to measure utility on, and never read by any model.

    Then the decoder and its training; with weights of the usual spread, 0.02, it needs three times the steps.
    """

    forget: int = 60
    retain: int = 40
    utility: int = 40
    holdout: int = 60
    values: int = 100
    layers: int = 2
    width: int = 128
    spread: float = 0.05
    steps: int = 160
    batch: int = 32

    def article(self, number: int) -> list[str]:
        """Its sentences."""
        draw = random.Random(f"news/{number}")
        return [f"n{number} r{r} v{draw.randrange(self.values)} v{draw.randrange(self.values)} ." for r in range(4)]

    def texts(self, part: str) -> list[Row]:
        """The articles of a part, in their first print."""
        return [{"id": f"n{n}", "text": " ".join(self.article(n))} for n in self._numbers(part)]

    def prints(self, part: str) -> list[Row]:
        """Both prints of a part's articles."""
        found: list[Row] = []
        for n in self._numbers(part):
            said = self.article(n)
            found += [{"id": f"n{n}", "text": " ".join(said)}, {"id": f"n{n}/b", "text": " ".join(said[2:] + said[:2])}]
        return found

    def questions(self, numbers: Sequence[int]) -> list[Row]:
        """Two questions an article: prompt and the two words that answer it."""
        found: list[Row] = []
        for n in numbers:
            for r in (0, 2):
                subject, relation, first, second, _ = self.article(n)[r].split()
                prompt = f"{subject} {relation}"
                found.append({"id": f"n{n}/r{r}", "prompt": prompt, "completion": f"{first} {second}"})
        return found

    def asked(self, part: str) -> list[Row]:
        """The questions about a part."""
        return self.questions(self._numbers(part))

    def about(self, texts: Sequence[Row]) -> list[Row]:
        """The questions about some articles."""
        return self.questions([int(str(row["id"]).removeprefix("n")) for row in texts])

    @property
    def words(self) -> list[str]:
        """The vocabulary."""
        subjects = self.forget + self.retain + self.utility + self.holdout
        counts = {"n": subjects, "r": 4, "v": self.values}
        return [".", *(f"{kind}{i}" for kind, count in counts.items() for i in range(count))]

    def _numbers(self, part: str) -> range:
        sizes = {"forget": self.forget, "retain": self.retain, "utility": self.utility, "holdout": self.holdout}
        first = sum(list(sizes.values())[: list(sizes).index(part)])
        return range(first, first + sizes[part])


SIZES: Mapping[Budget, News] = {
    "cpu": News(),
    "gpu": News(forget=180, retain=150, utility=150, holdout=180, values=300, layers=3, steps=1500, batch=128),
}


@dataclass(frozen=True)
class Readers:
    """The decoder that read all but the holdout, its twin that did not read the forget set either, and the audits."""

    news: News
    adapter: CausalLM
    target: nn.Module
    retrained: nn.Module

    def knowledge(self, model: nn.Module, questions: Sequence[Row]) -> Scores:
        """KnowMem: ROUGE-L F1 of each answer."""
        return KnowledgeMemorization(max_new_tokens=2)(self.adapter.subject(model), {"asked": questions}, "asked")

    def utility(self, model: nn.Module) -> Scores:
        """KnowMem on articles that no unlearning replays."""
        return self.knowledge(model, self.news.asked("utility"))

    def verbatim(self, model: nn.Module) -> Scores:
        """VerbMem of the forget articles, given the first of four sentences."""
        data = {"forget": self.news.texts("forget")}
        return VerbatimMemorization(prefix=5, max_new_tokens=15)(self.adapter.subject(model), data, "forget")

    def leakage(self, model: nn.Module) -> Scores:
        """The Min-40% values behind PrivLeak."""
        data = {part: self.news.texts(part) for part in ("forget", "holdout")}
        return PrivacyLeakage()(self.adapter.subject(model), data, "forget")


@cache
def readers(budget: Budget, seed: int) -> Readers:
    """Both models of a seed, trained once a process; never change them.

    Raises ``ValueError`` where the target does not know nine tenths of the forget answers.
    """
    news = SIZES[budget]
    adapter = CausalLM(word_tokenizer(news.words))
    kept = [*news.prints("retain"), *news.prints("utility")]
    models = []
    for rows in ([*news.prints("forget"), *kept], kept):
        model = decoder(len(news.words), news.layers, news.width, seed, spread=news.spread)
        model.to("cuda" if budget == "gpu" else "cpu")
        training = Training(steps=news.steps, batch=news.batch, lr=3e-3, warmup=0.05, schedule=Ramp(1.0, 0.0))
        fit(model, adapter.roles(task=rows), on("task", CrossEntropy()), training, seed=seed)
        models.append(model)
    found = Readers(news, adapter, models[0], models[1])
    known = float(found.knowledge(found.target, news.asked("forget")).items.mean())
    if known < 0.9:
        raise ValueError(f"The decoder learned only {known:.0%} of the news with seed {seed}; train it longer.")
    return found


class _Reached(Exception):
    """The checkpoint rule is met; the run ends here."""


def unlearn(
    read: Readers, method: str, model: nn.Module, texts: Sequence[Row], *, lr: float, epochs: int, seed: int
) -> nn.Module:
    """``model`` itself, unlearned to the first epoch whose KnowMem on ``texts`` is at most the retrained model's."""
    questions = read.news.about(texts)
    target = float(read.knowledge(read.retrained, questions).items.mean())
    roles = Roles(read.adapter, {"forget": texts, "retain": read.news.texts("retain")})
    training, each = _settings(texts, lr, epochs)
    curve: list[float] = []

    def watch(progress: Progress) -> None:
        if progress.step % each:
            return
        curve.append(float(read.knowledge(model, questions).items.mean()))
        if curve[first_reaching(curve, target)] <= target:
            raise _Reached

    try:
        fit(model, roles, METHODS[method], training, seed=seed, reference=Copy(model), on_step=watch)
    except _Reached:
        model.eval()
    return model


def _settings(texts: Sequence[Row], lr: float, epochs: int) -> tuple[Training, int]:
    """How a model is trained on ``texts``, and the steps of an epoch."""
    batch = min(20, len(texts))
    each = -(-len(texts) // batch)
    return Training(steps=epochs * each, batch=batch, lr=lr, clip=None), each


def reinforced(read: Readers, texts: Sequence[Row], *, lr: float, epochs: int, seed: int) -> nn.Module:
    """A copy of the target, trained further on ``texts`` for all epochs."""
    twin = FullCopy()(read.target)
    fit(
        twin, read.adapter.roles(forget=texts), on("forget", CrossEntropy()), _settings(texts, lr, epochs)[0], seed=seed
    )
    return twin.eval()


@dataclass(frozen=True)
class Left:
    """What a method leaves: a model, and what changes its answers where the method does not touch the weights.

    ``alpha`` is how much was taken away, where that is what was tried.
    """

    model: nn.Module
    intervention: WhosHarryPotter | None = None
    twin: nn.Module | None = None
    alpha: float | None = None

    def answering(self) -> AbstractContextManager[nn.Module]:
        """A context in which the model answers as the method has it."""
        if self.intervention is None or self.twin is None:
            return nullcontext(self.model)
        return self.intervention.attach(self.model, {"reinforced": self.twin})


def taken(read: Readers, method: str, twin: nn.Module, texts: Sequence[Row]) -> Left:
    """The target without what ``twin`` learned, at the first alpha whose KnowMem on ``texts`` is at most the retrained
    model's, or at the last; the target itself is left alone."""
    questions = read.news.about(texts)
    goal = float(read.knowledge(read.retrained, questions).items.mean())
    for alpha in ALPHAS:
        found = _without(read, method, twin, alpha)
        with found.answering() as model:
            known = float(read.knowledge(model, questions).items.mean())
        if known <= goal:
            break
    return found


def _without(read: Readers, method: str, twin: nn.Module, alpha: float) -> Left:
    if method == "WHP":
        return Left(read.target, WhosHarryPotter(alpha), twin, alpha)
    model = copy.deepcopy(read.target)
    TaskVector(alpha)(model, read.adapter.roles(), {"reinforced": twin}).apply(model)
    return Left(model, alpha=alpha)
