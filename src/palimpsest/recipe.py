"""A recipe: a run as data, whose names and settings are all checked before any data or model is loaded.

    model: {pretrained: smollm2-135m, chat: true, chat_template: chatml}
    roles: {forget: forget.jsonl, retain: retain.jsonl}
    objective: [{on: forget, npo: {beta: 0.1}}, {on: retain, cross_entropy: {}, weight: 1.0}]
    train: {epochs: 5, batch: 32, lr: 1.0e-5}
    audits: {forget: [knowledge_memorization], retain: [knowledge_memorization]}
    baselines: [gradient_ascent]
    expect: {forget/knowledge_memorization: lower}

Every error is one sentence that names its place (``objective.0.npo.beta``).  There is no include and no
interpolation: a recipe longer than a screen is Python, ``def recipe() -> Recipe``, read by ``recipe_source``.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

__all__ = [
    "Baseline",
    "Lora",
    "ModelSpec",
    "Recipe",
    "RecipeError",
    "Slow",
    "Stage",
    "WatchSpec",
    "plain",
    "to_yaml",
]

STRICT = ConfigDict(extra="forbid", strict=False)
Spec = str | dict[str, Any]


LONGEST_MESSAGE = 400


class RecipeError(ValueError):
    """A recipe that cannot run; the message is one sentence that names the place.

    It is one line of at most 400 printable characters, whatever text of the user it quotes.
    """

    def __init__(self, message: str) -> None:
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(message.split()))
        half = LONGEST_MESSAGE // 2 - 2
        super().__init__(text if len(text) <= LONGEST_MESSAGE else f"{text[:half]} … {text[-half:]}")


@dataclass(frozen=True)
class Lora:
    """A peft LoRA adapter for a stage; it is merged into the weights when the stage ends.

    ``continues`` goes on with the adapter of the stage before, and with its slow average where both stages have one.
    """

    __pydantic_config__ = STRICT
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: list[str] | None = None
    continues: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, not {short(self.rank)}")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha must be a finite number above 0, not {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout lies in [0, 1), not {self.dropout}")


@dataclass(frozen=True)
class Slow:
    """A reference that is a slow average of what the stage trains; ``ends`` says whose weights the stage leaves."""

    __pydantic_config__ = STRICT
    decay: float = 0.999
    warm: bool = False
    ends: Literal["fast", "slow"] = "fast"

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay lies in [0, 1], not {self.decay}")


@dataclass(frozen=True)
class ModelSpec:
    """``pretrained``: a name of the zoo, a folder, a .gguf file, or a hub id. ``adapter``: the kind of model.

    ``max_length`` in tokens, longer rows are refused; left out, it is 1024, or what the model can see where that is
    less. ``end_of_text`` ends each row with ``text`` by the end token, without which a model does not learn where
    documents end.
    """

    __pydantic_config__ = STRICT
    pretrained: str
    adapter: Literal["causal_lm", "classifier"] = "causal_lm"
    chat: bool = False
    chat_template: str | None = None
    max_length: int | None = None
    packed: bool = False
    end_of_text: bool = False
    classes: int | None = None
    features: str | None = None

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 2:
            raise ValueError(f"max_length must be at least 2 tokens, not {short(self.max_length)}")
        if self.classes is not None and self.classes < 1:
            raise ValueError(f"classes must be at least 1, not {short(self.classes)}")
        text = {k: getattr(self, k) for k in ("chat", "chat_template", "packed", "end_of_text")}
        labels = {"classes": self.classes, "features": self.features}
        classifier = self.adapter == "classifier"
        for key, value in (text if classifier else labels).items():
            if value:
                other = "causal_lm" if classifier else "classifier"
                raise ValueError(f"{key} is for the adapter {other}, not for {self.adapter}; remove it")


@dataclass(frozen=True)
class WatchSpec:
    """Audits of roles before the first step of a stage, after every ``every``-th and after the last."""

    __pydantic_config__ = STRICT
    every: int
    audits: dict[str, list[Spec]]

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1 step, not {short(self.every)}")
        if not any(self.audits.values()):
            raise ValueError("audits must name an audit of a role; leave watch out where nothing is to be watched")


@dataclass(frozen=True)
class Stage:
    """select -> layers -> edit -> mask -> train -> intervention, each of them optional.

    ``layers``, one or a list, stand in the model while the stage trains; ``procedure`` is a loop of its own in place of
    the stage's; ``watch`` measures on the way.
    ``trains`` other than ``model`` names a companion that is trained beside the model, from ``starts``.
    ``reference`` is the model before training: ``auto`` caches what it said wherever that is exact and copies the model
    otherwise; ``copy``, ``cached`` and ``adapter_off`` say how.  ``start`` is the model before the first stage of the
    run, as the report's ``before`` is; ``{slow_average: {decay: 0.25}}`` follows the model.
    """

    __pydantic_config__ = STRICT
    name: str = "train"
    objective: list[dict[str, Any]] = field(default_factory=list)
    train: dict[str, Any] | None = None
    select: dict[str, Spec] = field(default_factory=dict)
    lora: Lora | None = None
    layers: Spec | list[Spec] | None = None
    edit: Spec | None = None
    mask: Spec | None = None
    intervention: Spec | None = None
    procedure: Spec | None = None
    combine: Spec | None = None
    watch: WatchSpec | None = None
    reference: Spec = "auto"
    trains: str = "model"
    starts: Spec | None = None


@dataclass(frozen=True)
class Baseline:
    """Stages that lead to a model to compare with, from ``before`` the last stage or from the ``pretrained`` model.

    None of them may train on rows of the role ``unseen``, whatever role holds them.  ``pretrained`` names the model
    that takes the place of the recipe's own at the start; ``caution`` is a sentence on what may not be meant, or empty.
    """

    name: str
    label: str
    start: Literal["before", "pretrained"]
    stages: tuple[Stage, ...]
    unseen: str | None = None
    pretrained: str | None = None
    caution: str = ""


@dataclass(frozen=True)
class Recipe:
    """The whole run.  All stages but the last lead to the model ``before``; the last leads to ``after``.

    ``variants`` are other last stages from the same start; ``baselines`` come from files of that folder.
    ``tasks`` make it a sequence: stage -> the role that it teaches. Then the stages from the first task's on all lead
    to ``after`` (and replace the last stage above), and all audits run after each of them. The key ``before`` names
    what the model could do at the start. ``chance``: audit -> what a model without any skill scores in every task.
    """

    __pydantic_config__ = STRICT
    model: ModelSpec
    roles: dict[str, Any]
    stages: list[Stage]
    audits: dict[str, list[Spec]]
    name: str = "run"
    title: str = ""
    tasks: dict[str, str] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)
    variants: dict[str, list[Stage]] = field(default_factory=dict)
    baselines: list[Spec] = field(default_factory=list)
    expect: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])

    @property
    def start(self) -> int:
        """Number of the stages that lead to ``before``."""
        own = [i for i, stage in enumerate(self.stages) if stage.name in self.tasks]
        return min(own, default=len(self.stages) - 1)


STAGE_KEYS = tuple(f.name for f in dataclasses.fields(Stage) if f.name != "name")


def validated(cls: Any, data: Any, place: str = "") -> Any:
    """``data`` as ``cls``, or a ``RecipeError`` that names the place."""
    try:
        return TypeAdapter(cls).validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    except (RecursionError, OverflowError, ValueError) as error:
        raise RecipeError(f"{place or 'recipe'}: this cannot be read ({error}); write plain values.") from None
    location = [p for p in first["loc"] if p != "[key]"]
    kind, union = first["type"], location[-1:] == ["str"] and first["type"] == "string_type"
    where = ".".join([p for p in (place, *(short(p, quoted=False) for p in location[: -1 if union else None])) if p])
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        known = keys_at(cls, location[:-1])
        raise RecipeError(f"{where}: there is no such key; {suggest(str(location[-1]), known)}")
    if kind in ("missing", "missing_argument"):
        raise RecipeError(f"{where}: this key is missing; add it.")
    given = short(first["input"])
    if kind == "dataclass_type":
        raise RecipeError(f"{where}: write it as {{key: value}}, not as {given}; {suggest('', keys_at(cls, location))}")
    if union:
        raise RecipeError(f"{where}: write a name or {{name: {{field: value}}}}, not {given}.")
    if kind == "list_type":
        example = "[0, 1, 2]" if isinstance(first["input"], int) else f"[{given}]"
        raise RecipeError(f"{where}: write a list here, such as {example}, not {given}.")
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    raise RecipeError(f"{where}: {message} (given: {given}).")


def short(value: Any, *, quoted: bool = True) -> str:
    """A value as an error shows it."""
    try:
        text = repr(value) if quoted or not isinstance(value, str) else value
    except (ValueError, RecursionError):  # a number of thousands of digits; lists within lists without end
        text = f"a very long {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "…"


def keys(cls: Any) -> list[str]:
    """The keys that a part of a recipe may have."""
    found = [f.name for f in dataclasses.fields(cls)]
    return [*found, *STAGE_KEYS] if cls is Recipe else found


def keys_at(cls: Any, location: Sequence[Any]) -> list[str]:
    """The keys of the part of ``cls`` that lies at ``location``."""
    inside = {
        Recipe: {"model": ModelSpec, "stages": Stage, "variants": Stage},
        Stage: {"lora": Lora, "watch": WatchSpec},
    }
    parts = iter(location)
    for part in parts:
        cls = inside.get(cls, {}).get(part, cls)
        if part == "variants":  # a label is the user's word, which may be that of a key
            next(parts, None)
    return keys(cls)


def suggest(word: str, known: Sequence[str]) -> str:
    """The end of a sentence: the nearest known word, of several the first, or all of them."""
    likeness = {w: difflib.SequenceMatcher(None, w, word).ratio() for w in known}
    nearest = max(likeness, key=likeness.__getitem__, default="")
    if likeness.get(nearest, 0.0) >= 0.6:
        return f"did you mean {nearest}?"
    return f"there are: {', '.join(known) or 'none'}."


def plain(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe as plain data, without the optional keys that are empty."""

    def tidy(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = [(f, getattr(value, f.name)) for f in dataclasses.fields(value)]
            return {f.name: tidy(v) for f, v in fields if not (_optional(f) and _empty(v))}
        if isinstance(value, dict):
            return {k: tidy(v) for k, v in value.items()}
        return [tidy(v) for v in value] if isinstance(value, (list, tuple)) else value

    found: dict[str, Any] = tidy(recipe)
    return found


def _optional(entry: dataclasses.Field[Any]) -> bool:
    return entry.default is not dataclasses.MISSING or entry.default_factory is not dataclasses.MISSING


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, (dict, list, tuple, str)) and not value)


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe, defaults included where they matter; it runs again from here."""
    from palimpsest.yaml_text import dump

    try:
        return dump(plain(recipe))
    except ValueError as error:
        raise RecipeError(f"recipe: {error}.") from None
