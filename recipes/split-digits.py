"""Ten digits learned as five tasks of two, one after the other, by naive training and ten methods that keep more.

About seven minutes on one core, with five seeds:

    palimpsest run recipes/split-digits.py --allow-imports

Class-incremental: all ten classes compete at any time, and nobody says which task a picture belongs to.  Every method
has the same network, optimizer and steps; those with a buffer have one of 200 rows.  The weights of the penalties were
set once and not tuned.  ``shifted-digits.py`` is the domain-incremental stream.
"""

from __future__ import annotations

from typing import Any

from palimpsest import Recipe, parse_recipe

PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
DOMAINS: tuple[dict[str, float], ...] = ({}, {"rotate": 90}, {"contrast": -1}, {"rotate": 45, "contrast": 0.4})
TRAIN = {"steps": 60, "batch": 32, "lr": 0.02, "optimizer": "sgd"}
BUFFER = {"reservoir": {"size": 200}}
CONTRAST = {"supervised_contrastive": {"width": 128}}
PROTOTYPES = {"prototype_relation": {"head": "head", "learning_rate": 0.1}}
"""At the released rate of 0.01, which is for a hundred epochs a task, sixty steps hardly turn a prototype."""

Spec = dict[str, Any]


def build(kind: str) -> Spec:
    """The recipe of the stream of ``classes`` or of ``domains``."""
    parts = [{"classes": list(pair)} for pair in PAIRS] if kind == "classes" else list(DOMAINS)
    tasks = range(1, len(parts) + 1)
    roles: Spec = {}
    for t, part in zip(tasks, parts):
        seen = [f"task {s}" for s in range(1, t + 1)]
        roles[f"task {t}"] = {"zoo": "digits", **part}
        roles[f"test {t}"] = {"zoo": "digits", "part": "test", **part}
        roles[f"seen {t}"] = seen
        roles[f"one {t}"] = roles[f"two {t}"] = {"augment": {"shift": 1, "noise": 0.1}, "of": f"task {t}"}
    audits = {f"test {t}": ["accuracy"] for t in tasks}
    return {
        "name": "split-digits" if kind == "classes" else "shifted-digits",
        "title": f"Digits in {len(parts)} tasks, {'class' if kind == 'classes' else 'domain'}-incremental",
        "model": {"pretrained": "digits-cnn", "adapter": "classifier"},
        "roles": roles,
        "stages": [stage(t, {"watch": {"every": 10, "audits": audits}}) for t in tasks],
        "tasks": {f"task {t}": f"test {t}" for t in tasks},
        "variants": variants(kind, list(tasks), audits),
        "audits": audits,
        "seeds": [0, 1, 2, 3, 4],
    }


def stage(task: int, more: Spec, *terms: Spec, weight: float = 1.0) -> Spec:
    """Cross-entropy on a task, with further terms."""
    own = {"on": f"task {task}", "cross_entropy": {}, "weight": weight}
    return {"name": f"task {task}", "objective": [own, *terms], "train": TRAIN, **more}


def variants(kind: str, tasks: list[int], audits: Spec) -> dict[str, list[Spec]]:
    """The methods, each as its stages."""
    watched: Spec = {"watch": {"every": 10, "audits": audits}}

    def sequence(later: Any) -> list[Spec]:
        return [stage(1, watched), *(later(t) for t in tasks[1:])]

    def replayed(t: int, *terms: Spec, **more: Any) -> Spec:
        return stage(t, {"select": {f"seen {t - 1}": BUFFER}, **watched, **more}, *terms)

    def again(t: int, weight: float = 1.0) -> Spec:
        return {"on": f"seen {t - 1}", "cross_entropy": {}, "weight": weight}

    def dark(t: int) -> Spec:
        return {"on": f"seen {t - 1}", "dark_experience": {}, "weight": 0.5}

    def old(t: int) -> list[int]:
        return [c for pair in PAIRS[: t - 1] for c in pair] if kind == "classes" else []

    def ewc(t: int) -> Spec:
        return {"on": "weights", "elastic_weight_consolidation": {"of": f"task {t - 1}"}, "weight": 100.0}

    def lwf(t: int) -> Spec:
        return {"on": f"task {t}", "learning_without_forgetting": {"classes": old(t)}}

    def asymmetric(t: int) -> Spec:  # its buffer holds the new task too, else nothing would raise new classes above old
        own = {"on": f"task {t}", "asymmetric_cross_entropy": {}}
        replay = {"on": f"seen {t}", "cross_entropy": {}}
        return {**stage(t, {"select": {f"seen {t}": BUFFER}, **watched}), "objective": [own, replay]}

    def projected(t: int) -> Spec:
        rule = {"one_sided_projection": {"protect": f"seen {t - 1}", "follow": False}}
        return replayed(t, again(t), combine=rule)

    def rounds(t: int) -> Spec:
        own = {"on": f"seen {t}", "cross_entropy": {}}
        loop = {"k_fpf": {"rounds": 1, "steps": 20, "size": 200, "replay": f"seen {t}"}}
        return stage(t, {"procedure": loop}, own)

    def relation(t: int) -> Spec:
        views = [f"one {t}", f"two {t}"]
        terms = [{"on": views, **CONTRAST}, {"on": views, **PROTOTYPES}]
        return {"name": f"task {t}", "objective": terms, "train": TRAIN, "reference": "copy", **watched}

    last = tasks[-1]
    tuned = {
        "name": "tune",
        "select": {f"seen {last}": BUFFER},
        "mask": {"forgetting_prioritized": {}},
        "objective": [{"on": f"seen {last}", "cross_entropy": {}}],
        "train": TRAIN,
    }
    joint = {"name": "all", "objective": [{"on": f"seen {last}", "cross_entropy": {}}]}
    replay = sequence(lambda t: replayed(t, again(t)))
    return {
        "joint": [{**joint, "train": {**TRAIN, "steps": TRAIN["steps"] * len(tasks)}}],
        "replay": replay,
        "DER": sequence(lambda t: replayed(t, dark(t))),
        "DER++": sequence(lambda t: replayed(t, dark(t), again(t, 0.5))),
        "ER-ACE": sequence(asymmetric),
        "A-GEM": sequence(projected),
        "EWC": sequence(lambda t: stage(t, watched, ewc(t))),
        "LwF": sequence(lambda t: stage(t, watched, lwf(t))),
        "replay, then FPF": [*replay, tuned],
        "k-FPF": [rounds(t) for t in tasks],
        "PRD": [relation(t) for t in tasks],
    }


def recipe() -> Recipe:
    """The stream of classes."""
    return parse_recipe(build("classes"))
