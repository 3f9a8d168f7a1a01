"""A model of English prose goes on to read German (``prose-code.py`` for another language).

The German text is that of a Debian package, which is not shipped here: ``python recipes/data/german_text.py`` says how
to get it and writes it to ``german.jsonl`` and ``german-test.jsonl``, where the recipe looks for it.

    palimpsest run recipes/english-german.py --allow-imports
"""

from __future__ import annotations

import runpy
from pathlib import Path

from palimpsest import Recipe, parse_recipe
from palimpsest.recipe import RecipeError


def recipe() -> Recipe:
    """From English to German."""
    if not Path("german.jsonl").exists():
        raise RecipeError(
            "There is no german.jsonl here; python recipes/data/german_text.py writes it, or says what it needs."
        )
    build = runpy.run_path(str(Path(__file__).with_name("prose-code.py")))["build"]
    train, test = {"file": "german.jsonl"}, {"file": "german-test.jsonl"}
    return parse_recipe(
        build("english-german", "A model of English prose goes on to read German", "german", train, test)
    )
