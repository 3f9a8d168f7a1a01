"""A model of English prose goes on to read code: how high the rate is raised again, how it falls, how much is replayed.

Minutes on one core, with three seeds:

    palimpsest run recipes/prose-code.py --allow-imports

The grid is three maxima of the rate, three shares of the old text among the new, and four schedules; all arms read
as many tokens.  ``cosine`` re-warms a model whose rate had fallen and lets it fall again; ``wsd`` re-warms the same
model, but stays at the maximum for half of the phase and falls in the other; ``infinite`` goes on from a model that had
stayed on its plateau, and anneals in the second half; ``constant`` goes on at the rate to which the first phase fell.
``retrained`` is joint training from scratch on what both phases hold, at as many tokens as the two together.
``english-german.py`` and ``english-legal.py`` are other shifts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from palimpsest import Recipe, parse_recipe
from palimpsest.recipe import RecipeError

Spec = dict[str, Any]

PEAK, FLOOR, PLATEAU = 1e-2, 0.1, 0.5
BATCH, FIRST, NEXT = 16, 320, 48
"""Rows a step, steps of the first phase, steps of the second."""
HELD_OUT = 96
MAXIMA = {"x0.5": 0.5, "x1": 1.0, "x2": 2.0}
SHARES = {"0%": 0.0, "5%": 0.05, "25%": 0.25}
ENDS: Spec = {"warmup": 0.02, "floor": FLOOR}
OPEN: Spec = {"plateau": PLATEAU, "floor": FLOOR}
"""Of the infinite schedule: the first phase ends on the plateau, and the second goes on there before it anneals."""
SCHEDULES: dict[str, Spec] = {
    "cosine": {"rewarm": ENDS},
    "wsd": {"wsd": {"decay": 0.5, **ENDS}},
    "infinite": {"infinite": {"warmup": 0.0, "cooldown": 0.0, "annealing": 0.5, **OPEN}},
}
CODE = {"zoo": "corpus", "part": "code", "characters": 64}


def build(name: str, title: str, new: str, train: Spec, test: Spec) -> Spec:
    """The recipe of the shift from English prose to the role ``new``, with its rows to train and to test on."""
    prose = {"zoo": "corpus", "part": "docstrings", "characters": 64}
    first, second = BATCH * FIRST, BATCH * NEXT
    tests = ["test english", f"test {new}"]
    roles: Spec = {
        "english": {**prose, "rows": 5120, "after": HELD_OUT},
        new: train,
        "test english": {**prose, "rows": HELD_OUT},
        f"test {new}": test,
        "both": tests,
        "all": {"mix": {"english": first / (first + second), new: second / (first + second)}, "rows": first + second},
    }
    for label, share in SHARES.items():
        roles[f"stream {label}"] = {"mix": {"english": share, new: 1 - share}, "rows": second}
    own = arms(tests)
    joint = {"epochs": 1, "batch": BATCH, "lr": PEAK, "schedule": {"rewarm": ENDS}}
    return {
        "name": name,
        "title": title,
        "model": {"pretrained": "byte-llama", "max_length": 256},
        "roles": roles,
        "stages": own["cosine x1, 25%"],
        "tasks": {"pre-train": "test english", "continue": f"test {new}"},
        "variants": own,
        "audits": {role: ["perplexity"] for role in [*tests, "both"]},
        "baselines": [{"retrain": {"on": "all", "train": joint}}],
        "seeds": [0, 1, 2],
    }


def arms(tests: list[str]) -> dict[str, list[Spec]]:
    """The grid, each arm as its two stages; one arm of each schedule is watched on the way."""
    watched = {"watch": {"every": 8, "audits": {role: ["perplexity"] for role in tests}}}

    def arm(schedule: str, rate: Spec, share: str, more: Spec) -> list[Spec]:
        stage = {
            "name": "continue",
            "objective": [{"on": f"stream {share}", "cross_entropy": {}}],
            "train": {"epochs": 1, "batch": BATCH, **rate},
            **more,
        }
        return [pre_train("infinite" if schedule == "infinite" else "cosine"), stage]

    found = {
        f"{schedule} {label}, {share}": arm(
            schedule, {"lr": times * PEAK, "schedule": fall}, share, watched if (label, share) == ("x1", "25%") else {}
        )
        for schedule, fall in SCHEDULES.items()
        for label, times in MAXIMA.items()
        for share in SHARES
    }
    constant = {"lr": FLOOR * PEAK}
    return found | {f"constant, {s}": arm("constant", constant, s, watched if s == "25%" else {}) for s in SHARES}


def pre_train(schedule: str) -> Spec:
    """The first phase: the rate has fallen to the floor at its end, or to the plateau from which one goes on."""
    cooled = {"warmup": 0.02, "cooldown": 0.3, "annealing": 0.0, **OPEN}
    fall = {"rewarm": ENDS} if schedule == "cosine" else {"infinite": cooled}
    train = {"steps": FIRST, "batch": BATCH, "lr": PEAK, "schedule": fall}
    return {"name": "pre-train", "objective": [{"on": "english", "cross_entropy": {}}], "train": train}


def from_files(text: str, title: str) -> Recipe:
    """To another text, which ``data/<text>_text.py`` writes into the working directory."""
    if not Path(f"{text}.jsonl").exists():
        raise RecipeError(
            f"There is no {text}.jsonl here; python recipes/data/{text}_text.py writes it, or says what it needs."
        )
    train, test = {"file": f"{text}.jsonl"}, {"file": f"{text}-test.jsonl"}
    return parse_recipe(build(f"english-{text}", title, text, train, test))


def recipe() -> Recipe:
    """From prose to code."""
    train, test = {**CODE, "rows": BATCH * NEXT, "after": HELD_OUT}, {**CODE, "rows": HELD_OUT}
    return parse_recipe(build("prose-code", "A model of English prose goes on to read code", "code", train, test))
