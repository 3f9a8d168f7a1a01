"""Palimpsest trains, continues, unlearns and audits PyTorch models, and says what they learned, retained and forgot.

The public names are resolved when they are first used, so that importing the package costs next to nothing and never
imports transformers.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palimpsest.adapters.causal_lm import CausalLM
    from palimpsest.adapters.classifier import Classifier
    from palimpsest.audit import Scores, Subject
    from palimpsest.combine import ConeProjection, OneSidedProjection, Sum
    from palimpsest.compare import compare
    from palimpsest.kernels.cut_cross_entropy import linear_cross_entropy
    from palimpsest.loop import Result, Training, fit
    from palimpsest.mask import Mask, Masked
    from palimpsest.measure import build_report
    from palimpsest.objective import Objective, Term, Total, count_items, evaluate, on, prepare
    from palimpsest.objectives.cross_entropy import CrossEntropy
    from palimpsest.objectives.elastic_weight_consolidation import ElasticWeightConsolidation
    from palimpsest.objectives.flat import FLAT
    from palimpsest.objectives.gradient_ascent import GradientAscent
    from palimpsest.objectives.inverted_hinge import InvertedHinge
    from palimpsest.objectives.kl_to_reference import KLToReference
    from palimpsest.objectives.npo import NPO
    from palimpsest.objectives.preference import Preference
    from palimpsest.patch import Patch
    from palimpsest.recipe import Recipe
    from palimpsest.recipe_source import load_recipe, parse_recipe
    from palimpsest.reference import AdapterOff, Copy, Frozen, SlowAverage, cache
    from palimpsest.report import Report
    from palimpsest.roles import Answers, Derived, Roles
    from palimpsest.run import run
    from palimpsest.schedules.cosine import Cosine
    from palimpsest.schedules.ramp import Ramp
    from palimpsest.select import Selection
    from palimpsest.statistics import Interval, bootstrap, paired_bootstrap
    from palimpsest.step import Step

_HOMES = {
    "adapters.causal_lm": ("CausalLM",),
    "adapters.classifier": ("Classifier",),
    "audit": ("Scores", "Subject"),
    "combine": ("ConeProjection", "OneSidedProjection", "Sum"),
    "compare": ("compare",),
    "kernels.cut_cross_entropy": ("linear_cross_entropy",),
    "loop": ("Result", "Training", "fit"),
    "mask": ("Mask", "Masked"),
    "measure": ("build_report",),
    "objective": ("Objective", "Term", "Total", "count_items", "evaluate", "on", "prepare"),
    "objectives.cross_entropy": ("CrossEntropy",),
    "objectives.elastic_weight_consolidation": ("ElasticWeightConsolidation",),
    "objectives.flat": ("FLAT",),
    "objectives.gradient_ascent": ("GradientAscent",),
    "objectives.inverted_hinge": ("InvertedHinge",),
    "objectives.kl_to_reference": ("KLToReference",),
    "objectives.npo": ("NPO",),
    "objectives.preference": ("Preference",),
    "patch": ("Patch",),
    "recipe": ("Recipe",),
    "recipe_source": ("load_recipe", "parse_recipe"),
    "reference": ("AdapterOff", "Copy", "Frozen", "SlowAverage", "cache"),
    "report": ("Report",),
    "roles": ("Answers", "Derived", "Roles"),
    "run": ("run",),
    "schedules.cosine": ("Cosine",),
    "schedules.ramp": ("Ramp",),
    "select": ("Selection",),
    "statistics": ("Interval", "bootstrap", "paired_bootstrap"),
    "step": ("Step",),
}
_HOME = {name: module for module, public in _HOMES.items() for name in public}

__all__ = [  # written out, since type checkers read it without running it
    "AdapterOff",
    "Answers",
    "CausalLM",
    "Classifier",
    "ConeProjection",
    "Copy",
    "Cosine",
    "CrossEntropy",
    "Derived",
    "ElasticWeightConsolidation",
    "FLAT",
    "Frozen",
    "GradientAscent",
    "Interval",
    "InvertedHinge",
    "KLToReference",
    "Mask",
    "Masked",
    "NPO",
    "Objective",
    "OneSidedProjection",
    "Patch",
    "Preference",
    "Ramp",
    "Recipe",
    "Report",
    "Result",
    "Roles",
    "Scores",
    "Selection",
    "SlowAverage",
    "Step",
    "Subject",
    "Sum",
    "Term",
    "Total",
    "Training",
    "bootstrap",
    "build_report",
    "cache",
    "compare",
    "count_items",
    "evaluate",
    "fit",
    "linear_cross_entropy",
    "load_recipe",
    "on",
    "paired_bootstrap",
    "parse_recipe",
    "prepare",
    "run",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'palimpsest' has no attribute {name!r}")
    return getattr(importlib.import_module(f"palimpsest.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]


class _Package(ModuleType):
    """A package whose public names win over submodules that are called the same, such as ``run``.

    Python binds a submodule in its package after the submodule's first import, whoever imports it.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOME and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
