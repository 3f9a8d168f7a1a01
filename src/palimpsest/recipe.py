"""A recipe: a run as data, checked whole before anything is loaded.

    model: {pretrained: smollm2-135m, chat: true, chat_template: chatml}
    roles: {forget: forget.jsonl, retain: retain.jsonl}
    objective: [{on: forget, npo: {beta: 0.1}}, {on: retain, cross_entropy: {}, weight: 1.0}]
    train: {epochs: 5, batch: 32, lr: 1.0e-5}
    audits: {forget: [knowledge_memorization], retain: [knowledge_memorization]}
    baselines: [gradient_ascent]
    expect: {forget/knowledge_memorization: lower}

Every error is one sentence that names its place (``objective.0.npo.beta``).  There is no include and no
interpolation: a recipe longer than a screen is Python, ``def recipe() -> Recipe``.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

__all__ = ["Baseline", "Lora", "ModelSpec", "Recipe", "RecipeError", "Stage", "load_recipe", "parse_recipe", "to_yaml"]

STRICT = ConfigDict(extra="forbid", strict=False)
Spec = str | dict[str, Any]


class RecipeError(ValueError):
    """A recipe that cannot run; the message is one sentence that names the place."""


@dataclass(frozen=True)
class Lora:
    """A peft LoRA adapter for one stage; it is merged into the weights when the stage ends."""

    __pydantic_config__ = STRICT
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: list[str] | None = None


@dataclass(frozen=True)
class ModelSpec:
    """``pretrained``: a name of the zoo, a folder, a .gguf file, or a hub id. ``adapter``: the kind of model."""

    __pydantic_config__ = STRICT
    pretrained: str
    adapter: Literal["causal_lm", "classifier"] = "causal_lm"
    chat: bool = False
    chat_template: str | None = None
    max_length: int = 1024
    packed: bool = False
    classes: int | None = None
    features: str | None = None


@dataclass(frozen=True)
class Stage:
    """select -> edit -> mask -> train -> intervention, each of them optional.

    ``trains`` other than ``model`` names a companion that is trained beside the model, from ``starts``.
    ``reference`` auto caches what the reference said wherever that is exact, and copies the model otherwise.
    """

    __pydantic_config__ = STRICT
    name: str = "train"
    objective: list[dict[str, Any]] = field(default_factory=list)
    train: dict[str, Any] | None = None
    select: dict[str, Spec] = field(default_factory=dict)
    lora: Lora | None = None
    edit: Spec | None = None
    mask: Spec | None = None
    intervention: Spec | None = None
    combine: Spec | None = None
    reference: Literal["auto", "copy", "cached", "adapter_off"] = "auto"
    trains: str = "model"
    starts: Spec | None = None


@dataclass(frozen=True)
class Baseline:
    """Stages that lead to a model to compare with, from ``before`` the last stage or from the ``pretrained`` model."""

    name: str
    label: str
    start: Literal["before", "pretrained"]
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Recipe:
    """The whole run.  All stages but the last lead to the model ``before``; the last leads to ``after``.

    ``variants`` are other last stages from the same start; ``baselines`` come from files of that folder.
    """

    __pydantic_config__ = STRICT
    model: ModelSpec
    roles: dict[str, Any]
    stages: list[Stage]
    audits: dict[str, list[Spec]]
    name: str = "run"
    title: str = ""
    variants: dict[str, list[Stage]] = field(default_factory=dict)
    baselines: list[Spec] = field(default_factory=list)
    expect: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])


STAGE_KEYS = tuple(f.name for f in dataclasses.fields(Stage) if f.name != "name")


def load_recipe(
    path: Path, overrides: Sequence[str] = (), *, allow_imports: bool = False, audit_only: bool = False
) -> Recipe:
    """Reads a recipe from YAML, or from a Python file with ``def recipe() -> Recipe`` when imports are allowed.

    ``audit_only`` drops everything that trains, so that the model is measured as it is.
    """
    import yaml

    from palimpsest.yaml_text import parse

    if not path.is_file():
        raise RecipeError(f"There is no recipe {path}; name a YAML file.")
    if path.suffix == ".py":
        if not allow_imports:
            raise RecipeError(f"{path} is Python, which runs only with --allow-imports; add that flag if you trust it.")
        return _from_python(path)
    try:
        raw = parse(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark is not None else ""
        raise RecipeError(
            f"{path}{where}: this is not YAML ({getattr(error, 'problem', None) or 'unreadable'})."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} could not be read ({error}).") from None
    return parse_recipe(raw, overrides, allow_imports=allow_imports, audit_only=audit_only)


def parse_recipe(
    raw: Any, overrides: Sequence[str] = (), *, allow_imports: bool = False, audit_only: bool = False
) -> Recipe:
    """A checked recipe from plain data. Raises ``RecipeError``."""
    if not isinstance(raw, dict):
        raise RecipeError(
            f"A recipe is a mapping with the keys {', '.join(keys(Recipe))}; this is {type(raw).__name__}."
        )
    data = _copied(raw)
    for text in overrides:
        _override(data, text)
    data = _with_stages(data)
    if audit_only:
        data = {k: v for k, v in data.items() if k not in ("variants", "baselines", "expect", "seeds")} | {"stages": []}
    recipe: Recipe = validated(Recipe, data)
    from palimpsest.recipe_parts import check

    check(recipe, allow_imports=allow_imports, audit_only=audit_only)
    return recipe


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, list) else value


def _with_stages(data: dict[str, Any]) -> dict[str, Any]:
    """A recipe of one stage may write the stage's keys at the top; a variant of one stage may leave out the list."""
    own = {k: data.pop(k) for k in STAGE_KEYS if k in data}
    if own:
        if "stages" in data:
            raise RecipeError(f"{sorted(own)[0]}: write it inside a stage, since this recipe lists its stages.")
        data["stages"] = [{"name": "train", **own}]
    variants = data.get("variants")
    if isinstance(variants, dict):
        data["variants"] = {k: v if isinstance(v, list) else [v] for k, v in variants.items()}
        for label, stages in data["variants"].items():
            data["variants"][label] = [{"name": str(label), **s} if isinstance(s, dict) else s for s in stages]
    return data


def validated(cls: Any, data: Any, place: str = "") -> Any:
    """``data`` as ``cls``, or a ``RecipeError`` that names the place."""
    try:
        return TypeAdapter(cls).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([p for p in (place, *(str(part) for part in first["loc"])) if p])
        kind = first["type"]
        if kind in ("unexpected_keyword_argument", "extra_forbidden"):
            raise RecipeError(
                f"{where}: there is no such key; {suggest(str(first['loc'][-1]), keys_at(cls, first['loc'][:-1]))}."
            ) from None
        if kind in ("missing", "missing_argument"):
            raise RecipeError(f"{where}: this key is missing; add it.") from None
        message = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise RecipeError(f"{where}: {message} (given: {short(first['input'])}).") from None


def short(value: Any) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def keys(cls: Any) -> list[str]:
    """The keys that a part of a recipe may have."""
    found = [f.name for f in dataclasses.fields(cls)]
    return [*found, *STAGE_KEYS] if cls is Recipe else found


def keys_at(cls: Any, location: Sequence[Any]) -> list[str]:
    inner = {"model": ModelSpec, "stages": Stage, "variants": Stage, "lora": Lora}
    for part in location:
        cls = inner.get(str(part), cls)
    return keys(cls)


def suggest(word: str, known: Sequence[str]) -> str:
    """The nearest known word, or all of them."""
    close = difflib.get_close_matches(word, known, 1, 0.6)
    return f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}"


def _override(data: dict[str, Any], text: str) -> None:
    """``a.0.b=value`` with the value in YAML."""
    import yaml

    from palimpsest.yaml_text import parse

    path, equals, value = text.partition("=")
    if not equals or not path:
        raise RecipeError(f"--set {text}: write it as place=value, such as objective.0.npo.beta=0.2.")
    here: Any = data
    parts = path.split(".")
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        at = ".".join(parts[: depth + 1])
        if isinstance(here, list):
            if not part.isdigit() or int(part) >= len(here):
                raise RecipeError(f"--set {text}: {at} is no entry of a list of {len(here)}.")
            key: Any = int(part)
        elif isinstance(here, dict):
            key = part
            if not last and key not in here:
                raise RecipeError(f"--set {text}: the recipe has no {at}; {suggest(part, list(map(str, here)))}.")
        else:
            raise RecipeError(f"--set {text}: {'.'.join(parts[:depth])} is a value, so it has no {part}.")
        if last:
            try:
                here[key] = parse(value)
            except yaml.YAMLError:
                raise RecipeError(f"--set {text}: the value is not YAML.") from None
        else:
            here = here[key] if here[key] is not None else here.setdefault(key, {})


def _from_python(path: Path) -> Recipe:
    import runpy

    try:
        made = runpy.run_path(str(path))["recipe"]()
    except KeyError:
        raise RecipeError(f"{path} defines no recipe(); write def recipe() -> Recipe.") from None
    if not isinstance(made, Recipe):
        raise RecipeError(f"{path}: recipe() returned {type(made).__name__}, not a Recipe.")
    from palimpsest.recipe_parts import check

    check(made, allow_imports=True)
    return made


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe, defaults included where they matter; it runs again from here."""
    import yaml

    def tidy(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            kept = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            return {k: tidy(v) for k, v in kept.items() if v not in (None, {}, [], "")}
        if isinstance(value, dict):
            return {k: tidy(v) for k, v in value.items()}
        return [tidy(v) for v in value] if isinstance(value, (list, tuple)) else value

    return str(yaml.safe_dump(tidy(recipe), sort_keys=False, allow_unicode=True, width=100))
