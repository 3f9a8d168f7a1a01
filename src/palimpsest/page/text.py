"""Text for the page: escaping of whatever a model prints, figures with a true minus, durations and sizes."""

from __future__ import annotations

import difflib
import html
import json
import math
import re
from typing import Any

from palimpsest.verdict import decimals as digits_of
from palimpsest.verdict import number

__all__ = [
    "amount",
    "clean",
    "count",
    "digits_of",
    "duration",
    "embed",
    "escape",
    "marked",
    "memory",
    "p_value",
    "prose",
    "span",
]

DASH = "–"
# Control characters, marks that reorder the text around them, and code points that are no characters.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufff9-\uffff\ud800-\udfff]"
)
_LONGEST = 2000


def clean(text: str) -> str:
    """``text`` with every character that is invisible or rearranges the page spelled out, as ⟨U+202E⟩."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _HIDDEN.sub(lambda found: "\ufffd" if found[0] == "\ufffd" else f"⟨U+{ord(found[0]):04X}⟩", text)


def escape(text: object) -> str:
    """Any value as HTML text or as a quoted attribute."""
    return html.escape(clean(str(text)), quote=True)


def prose(text: str) -> str:
    """A sentence as HTML, with a true minus before figures and no line break before a percent sign."""
    return re.sub(r"(?<=\d) (?=%)", "\u00a0", re.sub(r"(?<![\w.)-])-(?=\d)", "−", escape(text)))


def amount(value: float, digits: int | None = None, *, signed: bool = False) -> str:
    """A figure with a true minus, a plus where ``signed``, and a dash where it is undefined."""
    text = number(value, digits).replace("-", "−")
    return f"+{text}" if signed and value > 0 and text.strip("0.") else text


def span(low: float, high: float, digits: int) -> str:
    """An interval in brackets, or nothing where it is undefined."""
    if not (math.isfinite(low) or math.isfinite(high)):
        return ""
    return f"[{amount(low, digits)}, {amount(high, digits)}]"


def p_value(p: float) -> str:
    """A p with three decimals, or ``< 0.001``."""
    if not math.isfinite(p):
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(value: int | None) -> str:
    """A whole number with thousands apart."""
    return DASH if value is None else f"{value:,}"


def duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if seconds < 60:
        return f"{seconds:.{1 if seconds < 10 else 0}f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def memory(size: int | None) -> str:
    """Bytes in MiB or GiB."""
    if size is None:
        return DASH
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def embed(data: Any) -> str:
    """JSON that is inert inside a script element: no markup character and nothing beyond ASCII is left in it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def marked(text: str, target: str) -> str:
    """HTML of an output with the words of the expected answer, in its order, marked; cut after 2000 characters."""
    rest = len(text) - _LONGEST
    words = re.findall(r"\s+|\S+", text[:_LONGEST])
    wanted = [_word(w) for w in target[:_LONGEST].split()]
    spoken = [i for i, w in enumerate(words) if _word(w)]
    matcher = difflib.SequenceMatcher(None, [_word(words[i]) for i in spoken], wanted, autojunk=False)
    shared = set()
    for a, _, size in matcher.get_matching_blocks():
        if size > 1 or (size and _tells(_word(words[spoken[a]]))):
            shared |= {spoken[k] for k in range(a, a + size)}
    shown = "".join(f"<mark>{escape(w)}</mark>" if i in shared else escape(w) for i, w in enumerate(words))
    shown = re.sub(r"</mark>(\s+)<mark>", r"\1", shown)
    more = f' <span class="more">… {rest:,} more characters are in report.json</span>' if rest > 0 else ""
    return (shown if text.strip() else '<span class="more">(empty)</span>') + more


def _tells(word: str) -> bool:
    """Whether a word that two texts share on its own says something; a short word such as "the" does not."""
    return len(word) > 3 or not (word.isascii() and word.isalpha())


def _word(text: str) -> str:
    return re.sub(r"\W+", "", text).casefold()
