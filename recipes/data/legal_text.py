"""Legal prose for ``english-legal.py``: the licences that every Debian system carries.

    python recipes/data/legal_text.py [folder]           (without one: /usr/share/common-licenses)

Writes ``legal.jsonl`` and ``legal-test.jsonl`` into the working directory: passages of 64 bytes, as many as the recipe
reads and as many as it measures on.  Those to measure on are of one licence, of which no paragraph is read.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER, HELD_OUT = "/usr/share/common-licenses", "Apache-2.0"
BYTES, TRAIN, TEST = 64, 768, 96


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a licence in ASCII, lines joined; headings and lists of names are left out."""
    parts = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text.encode("ascii", "ignore").decode()))
    return [part for part in parts if len(part) > 40 and part[-1] in ".;:"]


def passages(kept: Sequence[str]) -> list[str]:
    """Paragraphs joined and cut into passages of one size."""
    text = " ".join(kept)
    return [text[start : start + BYTES] for start in range(0, len(text) - BYTES + 1, BYTES)]


def main(arguments: Sequence[str]) -> int:
    """Writes the two files, or says what is missing."""
    folder = Path(arguments[0] if arguments else FOLDER)
    found = {file.name: paragraphs(file.read_text("utf-8", "replace")) for file in sorted(folder.glob("*"))}
    if HELD_OUT not in found:
        print(f"There is no {folder / HELD_OUT}; name a folder of licences that has it.", file=sys.stderr)
        return 1
    own = dict.fromkeys(found.pop(HELD_OUT))
    others = dict.fromkeys(p for licence in found.values() for p in licence if p not in own)
    test, train = passages(list(own)), passages(list(others))
    if len(test) < TEST or len(train) < TRAIN:
        print(
            f"{folder} gives {len(train)} passages to read and {len(test)} to measure on, and {TRAIN} and {TEST} are"
            " needed; add licences.",
            file=sys.stderr,
        )
        return 1
    draw = random.Random("legal")
    for name, rows in (("legal-test", draw.sample(test, TEST)), ("legal", draw.sample(train, TRAIN))):
        lines = (json.dumps({"id": f"{name}/{i}", "text": text}) for i, text in enumerate(rows))
        Path(f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
