"""Ten digits in four domains: upright, turned, negative, turned with little contrast (``split-digits.py`` for domains).

Every class comes again in every task, so PRD has nothing to distill here: it is contrastive learning with prototypes.

    palimpsest run recipes/shifted-digits.py --allow-imports
"""

from __future__ import annotations

import runpy
from pathlib import Path

from palimpsest import Recipe, parse_recipe


def recipe() -> Recipe:
    """The stream of domains."""
    return parse_recipe(runpy.run_path(str(Path(__file__).with_name("split-digits.py")))["build"]("domains"))
