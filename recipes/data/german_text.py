"""German prose for ``english-german.py``, out of the Debian reference in German.

    apt-get install debian-reference-de            (or: apt-get download it, and dpkg -x it into a folder)
    python recipes/data/german_text.py [folder]

Writes ``german.jsonl`` and ``german-test.jsonl`` into the working directory: passages of 64 bytes at most, as many as
the recipe reads and as many as it measures on.
"""

from __future__ import annotations

import html
import json
import random
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGE = "debian-reference-de"
PAGES = "usr/share/debian-reference/*.de.html"
BYTES, TRAIN, TEST = 64, 768, 96


def paragraphs(page: str) -> Iterator[str]:
    """The paragraphs of an HTML page that are prose: sentences with few signs, no listing and no table."""
    text = re.sub(r"<(pre|table|head|script)\b.*?</\1>", " ", page, flags=re.DOTALL)
    for found in re.finditer(r"<p\b[^>]*>(.*?)</p>", text, re.DOTALL):
        paragraph = " ".join(html.unescape(re.sub(r"<[^>]+>", "", found[1])).split())
        plain = sum(c.isalpha() or c in " .,;:'()-?!" for c in paragraph)
        if len(paragraph) > 40 and paragraph[-1] in ".!?:" and plain >= 0.94 * len(paragraph):
            yield paragraph


def passages(text: str, size: int = BYTES) -> list[str]:
    """``text`` cut into passages of ``size`` bytes, one less where a letter of two bytes would be cut."""
    found, start, data = [], 0, text.encode()
    while start + size <= len(data):
        end = start + size
        while data[end : end + 1] and data[end] & 0xC0 == 0x80:  # inside a letter
            end -= 1
        found.append(data[start:end].decode())
        start = end
    return found


def main(arguments: Sequence[str]) -> int:
    """Writes the two files, or says what is missing."""
    root = Path(arguments[0] if arguments else "/")
    pages = sorted(root.glob(PAGES))
    if not pages:
        print(f"There is no {root / PAGES}; install the package: apt-get install {PACKAGE}.", file=sys.stderr)
        return 1
    kept = dict.fromkeys(p for page in pages for p in paragraphs(page.read_text(encoding="utf-8")))
    found = passages(" ".join(kept))
    if len(found) < TRAIN + TEST:
        print(
            f"{PACKAGE} gives {len(found)} passages, {TRAIN + TEST} are needed; take another version.", file=sys.stderr
        )
        return 1
    random.Random("german").shuffle(found)
    for name, own in (("german-test.jsonl", found[:TEST]), ("german.jsonl", found[TEST : TEST + TRAIN])):
        rows = (json.dumps({"id": f"{name.removesuffix('.jsonl')}/{i}", "text": t}) for i, t in enumerate(own))
        Path(name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
