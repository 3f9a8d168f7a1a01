"""A model of English prose goes on to read legal text (``prose-code.py`` for another use of the same language).

The text is that of licences, which are not shipped here: ``python recipes/data/legal_text.py`` writes it to
``legal.jsonl`` and ``legal-test.jsonl``, where the recipe looks for it.

    palimpsest run recipes/english-legal.py --allow-imports
"""

from __future__ import annotations

import runpy
from pathlib import Path

from palimpsest import Recipe


def recipe() -> Recipe:
    """From documentation to law."""
    shift = runpy.run_path(str(Path(__file__).with_name("prose-code.py")))["from_files"]
    made: Recipe = shift("legal", "A model of English prose goes on to read legal text")
    return made
