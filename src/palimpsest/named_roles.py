"""The roles that a stage looks at beside those of its terms: a setting of one of its parts is the name of a role.

    mask: {salun: {role: forget}}      procedure: {k_fpf: {replay: old}}
    objective: [{on: weights, elastic_weight_consolidation: {of: first}}]

No list of such settings is kept: a text that is the name of a role is taken for that role.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from palimpsest.names import build, dump
from palimpsest.recipe import Spec, Stage

__all__ = ["FAMILIES", "looked_at", "named", "renamed"]

FAMILIES = {"mask": "masks", "edit": "edits", "procedure": "procedures"}
"""Key of a stage -> the folder of what stands there."""


def _settings(part: object) -> dict[str, Any]:
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return {}
    return {f.name: getattr(part, f.name) for f in dataclasses.fields(part) if f.init}


def _named(part: object, roles: Collection[str]) -> set[str]:
    own = {value for value in _settings(part).values() if isinstance(value, str) and value in roles}
    return own.union(*(_named(value, roles) for value in _settings(part).values()))


def _renamed(part: Any, new: Mapping[str, str]) -> Any:
    changes = {
        key: new.get(value, value) if isinstance(value, str) else _renamed(value, new)
        for key, value in _settings(part).items()
    }
    return dataclasses.replace(part, **changes) if changes else part


def named(spec: Spec, family: str, roles: Collection[str]) -> set[str]:
    """Which of ``roles`` the settings of a method name, left out ones and those of methods inside it included."""
    return _named(build(spec, family, allow_imports=True), roles)  # what is not allowed was refused before


def renamed(spec: Spec, family: str, new: Mapping[str, str]) -> Spec:
    """The same method with other names of roles in its settings."""
    return dump(_renamed(build(spec, family, allow_imports=True), new))


def looked_at(stage: Stage, roles: Collection[str]) -> set[str]:
    """Which of ``roles`` are named by settings of the stage's parts and of its terms' methods."""
    parts = [(getattr(stage, key), family) for key, family in FAMILIES.items()]
    parts += [
        ({key: term[key]}, "objectives") for term in stage.objective for key in term if key not in ("on", "weight")
    ]
    return set().union(*(named(spec, family, roles) for spec, family in parts if spec is not None))
