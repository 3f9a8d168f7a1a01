"""A model of English prose goes on to read German (``prose-code.py`` for another language).

The German text is that of a Debian package, which is not shipped here: ``python recipes/data/german_text.py`` says how
to get it and writes it to ``german.jsonl`` and ``german-test.jsonl``, where the recipe looks for it.

    palimpsest run recipes/english-german.py --allow-imports
"""

from __future__ import annotations

import runpy
from pathlib import Path

from palimpsest import Recipe


def recipe() -> Recipe:
    """From English to German."""
    shift = runpy.run_path(str(Path(__file__).with_name("prose-code.py")))["from_files"]
    made: Recipe = shift("german", "A model of English prose goes on to read German")
    return made
