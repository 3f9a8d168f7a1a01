"""A recipe's model on its device, and the adapter that feeds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from palimpsest.audit import Row
from palimpsest.own_parts import failure
from palimpsest.recipe import ModelSpec, Recipe, RecipeError
from palimpsest.views import Adapter

if TYPE_CHECKING:
    from palimpsest.adapters.rows_to_tokens import Tokens

__all__ = ["Check", "Loaded", "base_of", "load_model", "row_checks"]

Check = Callable[[Row, str], None]
"""Raises ``ValueError`` for a row, named as in the second argument, that a kind of model cannot read."""

LONGEST_ROW = 1024
"""Tokens of the longest row where the recipe names no length; a longer row is more often a mistake than meant."""


@dataclass(frozen=True)
class Loaded:
    """A model on its device, and its adapter."""

    model: nn.Module
    adapter: Adapter


def row_checks(model: ModelSpec) -> tuple[Check, Check]:
    """What a row needs to be scored, and to be answered, by a recipe's kind of model; nothing is loaded."""
    if model.adapter == "classifier":
        from palimpsest.adapters import classifier

        return classifier.check_row, classifier.check_row
    from palimpsest.adapters import rows_to_tokens

    return partial(rows_to_tokens.check_row, chat=model.chat), partial(rows_to_tokens.check_prompt, chat=model.chat)


def base_of(model: ModelSpec, folder: Path | None = None) -> Path | None:
    """Where the folder or the file of a recipe's model lies, looked up like the rows of its roles; nothing is loaded.

    None for a model that has a name instead.  Raises ``RecipeError``.
    """
    if model.adapter == "classifier":
        return None
    from palimpsest.zoo.models import local

    try:
        return local(model.pretrained, folder)
    except (ValueError, OSError) as error:
        raise RecipeError(f"model.pretrained: {error}") from None


def load_model(
    recipe: Recipe,
    *,
    base: Path | None = None,
    allow_imports: bool = False,
    note: Callable[[str], None] | None = None,
) -> Loaded:
    """The recipe's model in float32 on the best device there is, and its adapter. Raises ``RecipeError``.

    ``base`` is where its files lie; left out, a relative path is looked up in the working directory.
    """
    spec = recipe.model
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if spec.adapter == "classifier":
            return _load_classifier(recipe, device, allow_imports)
        try:
            from palimpsest.adapters.causal_lm import CausalLM
            from palimpsest.adapters.causal_lm_subject import context_of
            from palimpsest.zoo.models import load_causal_lm
        except ImportError as error:
            raise RecipeError(
                f"model: language models need transformers ({error}); pip install 'palimpsest[hf]'."
            ) from None
        base = base or base_of(spec)
        if note is not None:
            note(f"Loading {spec.pretrained}.")
        model, tokenizer = load_causal_lm(spec.pretrained if base is None else str(base))
    except (ValueError, LookupError, OSError, ImportError) as error:
        text = str(error)
        raise RecipeError(text if text.startswith("model") else f"model.pretrained: {text}") from None
    limit = context_of(model)
    if limit is not None and spec.max_length is not None and spec.max_length > limit:
        raise RecipeError(
            f"model.max_length: {spec.max_length} tokens are more than the {limit} this model can see; lower it."
        )
    length = spec.max_length or min(LONGEST_ROW, limit or LONGEST_ROW)
    try:
        adapter = CausalLM(tokenizer, length, spec.chat, spec.chat_template, spec.packed, spec.end_of_text)
    except ValueError as error:
        raise RecipeError(f"model.{error}") from None
    if spec.chat or spec.chat_template:
        _try_template(adapter.tokens)
    return Loaded(model.to(device), adapter)


def _try_template(tokens: Tokens) -> None:
    """Renders one exchange, so that a template that is missing or broken is noticed before any row."""
    exchange = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        tokens.render(exchange, "model", generation=False)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    except Exception as error:  # the template is a program, and fails in its own ways
        raise RecipeError(f"model.chat_template: the template fails ({error}); write chatml, or correct it.") from None


def _load_classifier(recipe: Recipe, device: torch.device, allow_imports: bool) -> Loaded:
    from palimpsest.adapters.classifier import Classifier
    from palimpsest.zoo.classifiers import classifiers

    spec = recipe.model
    if ":" in spec.pretrained:
        if spec.classes is None:
            raise RecipeError("model.classes: say how many classes the model tells apart.")
        model, classes, features = _own_classifier(spec.pretrained, allow_imports), spec.classes, spec.features
    else:
        model, classes, features = classifiers(spec.pretrained)
    features = spec.features or features
    if features is not None and features not in dict(model.named_modules()):
        known = ", ".join(name for name, _ in model.named_modules() if name)
        raise RecipeError(f"model.features: the model has no module {features!r}; there are: {known}.")
    return Loaded(model.to(device), Classifier(spec.classes or classes, features))


def _own_classifier(name: str, allow_imports: bool) -> nn.Module:
    """What a factory outside Palimpsest returns."""
    from palimpsest.names import UnknownName, resolve

    try:
        model = resolve(name, allow_imports=allow_imports)()
    except UnknownName as error:
        raise RecipeError(f"model.pretrained: {error}") from None
    except Exception as error:  # the user's own code
        raise RecipeError(f"model.pretrained: {failure(name, error)}") from error
    if not isinstance(model, nn.Module):
        raise RecipeError(f"model.pretrained: {name} returned a {type(model).__name__}; it must return an nn.Module.")
    return model
