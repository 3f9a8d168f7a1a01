"""Facts about fictitious people, taught to SmolLM2-135M as tasks one after the other, each in another answer style.

    palimpsest run recipes/task-sequence.py --allow-imports

Where there is a GPU: four tasks of 160 facts and three seeds.  Elsewhere a reduced run with one seed and three tasks of
8 facts and 12 steps; what so few items cannot show is as open after it as before.

Every arm trains LoRA adapters of one rank at one rate, which was chosen for plain fine-tuning on the first task alone
(the lowest of 1e-3, 2e-3 and 4e-3 with which sixteen steps taught it).
What the other arms add has the weights of their papers and was not tuned; I-LoRA's average reaches over half a task.
Two arms are there to tell causes apart.  I-LoRA's consistency, a mean of squares, is made of this model's few large
activations and at its paper's weight outgrows the cross-entropy a hundredfold: it stands beside a hundredth of it, and
beside the slow average alone, which is what it measures without any.
Of a task is measured how likely its answers are as they were taught (``probability``: style and fact).  At full length
also whether the model gives just these answers (``exact_match``), and whether a fact is likelier than three wrong ones
where it is asked for and stated in words that no training used (``multiple_choice``: the fact, whatever the style).
General ability is the perplexity of prose whose sources are never replayed, and the answers to common questions.  Those
are sentences, as in the task that comes last, so how likely they are tells the style of an answer as well as knowledge.
An arm that learned little has little to forget: read what is kept beside what was there (``performance_when_taught``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from palimpsest import Recipe, parse_recipe

Spec = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How long the stream is and how many items are measured; ``full`` asks for answers and choices too."""

    model: str = "smollm2-135m"
    styles: tuple[str, ...] = ("short", "choice", "brief")
    people: int = 2
    steps: int = 12
    batch: int = 4
    lr: float = 2e-3
    buffer: int = 4
    general: int = 16
    words: int = 20
    full: bool = False
    seeds: tuple[int, ...] = (0,)


SIZES = {
    "cpu": Size(),
    "gpu": Size(
        styles=("short", "choice", "yes_no", "brief"),
        people=40, steps=200, batch=16, buffer=80, general=150, words=60, full=True, seeds=(0, 1, 2),
    ),
}  # fmt: skip
FACTS = 4
"""Facts a person."""


def build(size: Size) -> Spec:
    """The recipe at one size."""
    tasks = range(1, len(size.styles) + 1)
    general: Spec = {"zoo": "general_text", "rows": size.general, "words": size.words}
    roles: Spec = {"general": {**general, "part": "test"}, "texts": {**general, "part": "train"}}
    roles["knowledge"] = {"zoo": "instructions", "rows": size.general}
    for t, style in zip(tasks, size.styles):
        others = [other for other in ("yes_no", "choice", "short", "brief") if other != style]
        styles = {"own": style, "others": others, "alike": "attribute"}
        roles[f"facts {t}"] = {"zoo": "authors", "people": size.people, "first": size.people * (t - 1), "facts": FACTS}
        roles[f"task {t}"] = {"rewrite": {"answer_styles": {**styles, "share": 0.0}}, "of": f"facts {t}"}
        roles[f"styles {t}"] = {"rewrite": {"answer_styles": {**styles, "share": 0.2}}, "of": f"facts {t}"}
        roles[f"seen {t}"] = [f"task {s}" for s in range(1, t + 1)]
    asked: list[Any] = [
        {"exact_match": {"mode": "equals", "gold": "completion", "max_new_tokens": 24}},
        {"multiple_choice": {"wording": "paraphrased"}},
    ]
    own, common = (["probability", *asked], ["multiple_choice"]) if size.full else (["probability"], [])
    audits: Spec = {f"task {t}": own for t in tasks}
    audits |= {"general": ["perplexity"], "knowledge": ["probability", *common]}
    return {
        "name": "task-sequence",
        "title": f"Facts in {len(tasks)} answer styles, one after the other",
        "model": {"pretrained": size.model, "max_length": 256},
        "roles": roles,
        "stages": [stage(size, t, plain(t)) for t in tasks],
        "tasks": {f"task {t}": f"task {t}" for t in tasks},
        "variants": variants(size, list(tasks)),
        "audits": audits,
        "seeds": list(size.seeds),
    }


def stage(size: Size, task: int, objective: list[Spec], **more: Any) -> Spec:
    """A stage that teaches a task, with an adapter of its own that is merged at its end."""
    train = {"steps": size.steps, "batch": size.batch, "lr": size.lr, "warmup": 0.1, "schedule": "cosine"}
    return {"name": f"task {task}", "objective": objective, "train": train, "lora": {"rank": 8}, **more}


def plain(task: int, weight: float = 1.0) -> list[Spec]:
    """Cross-entropy on the task's own style."""
    return [{"on": f"task {task}", "cross_entropy": {}, "weight": weight}]


def variants(size: Size, tasks: list[int]) -> dict[str, list[Spec]]:
    """The arms beside plain fine-tuning, each as its stages."""
    penalty = {"on": "weights", "reg_lora": {}, "weight": 2500.0}

    def replayed(t: int, *terms: Spec, **more: Any) -> Spec:
        """Half the weight on a buffer of earlier tasks; the first task has none."""
        seen = f"seen {t - 1}"
        if t == 1:
            return stage(size, t, plain(t), **more)
        again = {"on": seen, "cross_entropy": {}, "weight": 0.5}
        buffer = {seen: {"reservoir": {"size": size.buffer}}}
        return stage(size, t, [*plain(t, 0.5), again, *terms], select=buffer, **more)

    def gere(t: int, weight: Spec) -> Spec:
        texts = {"on": "texts", "cross_entropy": {}, "weight": 0.5}
        margin = {"on": ["texts", f"task {t}"], "balanced_threshold_margin": weight}
        return stage(size, t, [*plain(t, 0.5), texts, margin])

    def i_lora(t: int, weight: float) -> Spec:
        slow = {"decay": 1 - 2 / size.steps, "warm": True, "ends": "slow"}
        close = {"on": f"seen {t - 1}", "embedding_consistency": {}, "weight": weight}
        adapter = {"rank": 8, "continues": t > 1}
        return replayed(t, *([close] if weight else []), lora=adapter, reference={"slow_average": slow})

    return {
        "replay": [replayed(t) for t in tasks],
        "GeRe, weight 1": [gere(t, {"dynamic": False}) for t in tasks],
        "GeRe, dynamic weight": [gere(t, {"dynamic": True, "cap": 100.0}) for t in tasks],
        "RegLoRA": [stage(size, t, [*plain(t), penalty]) for t in tasks],
        "SEFE": [stage(size, t, [{"on": f"styles {t}", "cross_entropy": {}}, penalty]) for t in tasks],
        "I-LoRA": [i_lora(t, 1.0) for t in tasks],
        "I-LoRA, weight 0.01": [i_lora(t, 0.01) for t in tasks],
        "slow average": [i_lora(t, 0.0) for t in tasks],
    }


def recipe() -> Recipe:
    """The full length where there is a GPU, else the reduced one."""
    import torch

    return parse_recipe(build(SIZES["gpu" if torch.cuda.is_available() else "cpu"]))
