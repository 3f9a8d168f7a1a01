"""Ordinary text and ordinary knowledge, to see what a model keeps: nothing is downloaded.

``general_text`` is English prose from the running interpreter's own documentation; ``corpus`` cuts that prose, the
interpreter's own source code and a made-up language into passages of one length, to train tiny models on one after the
other; ``instructions`` are short questions whose answers a small instruction model mostly knows.
"""

from __future__ import annotations

import ast
import codecs
import copy
import itertools
import random
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from palimpsest.zoo.authors import WRONG, fact
from palimpsest.zoo.knowledge import KNOWLEDGE

if TYPE_CHECKING:
    from palimpsest.audit import Row

__all__ = ["CORPORA", "Part", "corpus", "general_text", "instructions"]

_MODULES = (
    *("abc", "argparse", "ast", "asyncio.events", "asyncio.streams", "asyncio.tasks", "base64", "bdb", "calendar"),
    *("cmd", "codecs", "collections", "concurrent.futures._base", "configparser", "contextlib", "copy", "csv"),
    *("dataclasses", "datetime", "difflib", "dis", "doctest", "email.message", "email.policy", "enum", "fileinput"),
    *("fractions", "ftplib", "functools", "gettext", "glob", "gzip", "heapq", "html.parser", "http.client"),
    *("http.cookiejar", "http.cookies", "http.server", "imaplib", "inspect", "ipaddress", "json", "json.decoder"),
    *("json.encoder", "locale", "logging", "logging.handlers", "lzma", "mailbox", "mimetypes", "optparse", "os"),
    *("pathlib", "pdb", "pickle", "pickletools", "pkgutil", "platform", "plistlib", "pprint", "pydoc", "queue"),
    *("random", "re", "reprlib", "selectors", "shelve", "shlex", "shutil", "smtplib", "socket", "socketserver", "ssl"),
    *("statistics", "string", "subprocess", "tarfile", "tempfile", "textwrap", "threading", "timeit", "tkinter"),
    *("tokenize", "traceback", "tracemalloc", "turtle", "typing", "unittest.case", "unittest.mock", "urllib.parse"),
    *("urllib.request", "uuid", "warnings", "wave", "weakref", "xml.dom.minidom", "xml.etree.ElementTree"),
    *("xmlrpc.client", "zipfile"),
)
CORPORA = Literal["docstrings", "reference", "code", "cipher"]
"""What ``corpus`` can be made of."""
Part = Literal["all", "train", "test"]
"""Sources of ``general_text``: what is replayed from one part is not in the other."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def general_text(rows: int = 64, *, words: int = 60, seed: int = 0, part: Part = "all") -> list[Row]:
    """Passages of English prose of about ``words`` words (60 % to 100 %), the same for one version of Python.

    Row keys: ``id`` (where it stands, such as ``topics.assert/0`` or ``argparse/3``), ``text``.  Passages do not
    overlap, and a larger ``rows`` continues a smaller one.  ``part`` train has three of four sources and test the
    fourth, whatever the seed.  Raises ``ValueError`` beyond what the interpreter holds.
    """
    if words < 20:
        raise ValueError(f"words is at least 20, not {words}: shorter passages are single sentences.")
    found = [p for p in _passages(words) if part == "all" or _is_test(p[0]) == (part == "test")]
    if not 1 <= rows <= len(found):
        raise ValueError(
            f"This interpreter holds {len(found)} passages of {words} words; ask for at most that, not {rows}."
        )
    chosen = random.Random(f"text/{seed}").sample(found, len(found))[:rows]
    return [{"id": passage_id, "text": text} for passage_id, text in chosen]


def _is_test(passage_id: str) -> bool:
    """Whether a passage's source belongs to the part test."""
    return random.Random(f"part/{passage_id.rpartition('/')[0]}").random() < 0.25


@cache
def _passages(words: int) -> tuple[tuple[str, str], ...]:
    """(id, passage) of every source, without repetitions; no passage joins two texts."""
    seen: set[str] = set()
    result: list[tuple[str, str]] = []
    for source, texts in _sources():
        number = itertools.count()
        for text in texts:
            paragraphs = [p for p in _prose(text) if p not in seen]
            seen.update(paragraphs)
            sentences = [sentence for p in paragraphs for sentence in _SENTENCE_END.split(p)]
            result += [(passage, f"{source}/{next(number)}") for passage in _packed(sentences, words)]
    first = dict(reversed(result))  # a passage found twice keeps its first place
    return tuple((passage_id, passage) for passage, passage_id in reversed(first.items()))


def corpus(part: CORPORA, rows: int = 256, *, characters: int = 64, seed: int = 0, after: int = 0) -> list[Row]:
    """Passages of exactly ``characters`` characters that do not overlap, the same for one version of Python.

    * ``docstrings``: English prose of the standard library's docstrings.
    * ``reference``: English prose of the language reference, a near neighbor of the docstrings.
    * ``code``: the standard library's source code without its docstrings.
    * ``cipher``: the docstrings with their letters exchanged, always in the same way.  It stands for another language:
      word lengths, order and punctuation are those of English, and no word is known.  It is not a real language.

    Row keys: ``id`` (such as ``code/argparse/12``), ``text``.  A larger ``rows`` continues a smaller one; ``after``
    leaves out the first so many, which are then free to be measured on.  Raises ``ValueError`` beyond what the
    interpreter holds.
    """
    if part not in get_args(CORPORA):
        raise ValueError(f"There is no corpus {part!r}; there are: {', '.join(get_args(CORPORA))}.")
    if characters < 2:
        raise ValueError(f"characters is at least 2, not {characters}: one character alone predicts nothing.")
    found = [
        (f"{source}/{number}", text[first : first + characters])
        for source, text in _texts(part)
        for number, first in enumerate(range(0, len(text) - characters + 1, characters))
        if text[first : first + characters].strip()  # code may be indented by that much
    ]
    if rows < 1 or after < 0 or after + rows > len(found):
        raise ValueError(
            f"{part} has {len(found)} passages of {characters} characters; ask for 1 to that many, after included."
        )
    order = random.Random(f"corpus/{part}/{seed}").sample(range(len(found)), len(found))[after : after + rows]
    return [{"id": f"{part}/{found[i][0]}", "text": found[i][1]} for i in order]


@cache
def _texts(part: CORPORA) -> tuple[tuple[str, str], ...]:
    """(source, text) of every source of a corpus."""
    if part == "cipher":
        return tuple((source, _enciphered(text)) for source, text in _texts("docstrings"))
    if part == "code":
        return tuple((module, _code(text)) for module, text in _module_sources())
    wanted = [(s, texts) for s, texts in _sources() if s.startswith("topics.") == (part == "reference")]
    seen: set[str] = set()
    result = []
    for source, texts in wanted:
        paragraphs = list(dict.fromkeys(p for text in texts for p in _prose(text) if p not in seen))
        seen.update(paragraphs)
        result.append((source, " ".join(paragraphs)))
    return tuple(result)


def _code(source: str) -> str:
    """A module's source without docstrings, empty lines and spaces at the ends of lines."""
    lines: list[str | None] = [line.rstrip() for line in source.splitlines()]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and ast.get_docstring(node) is not None and first.end_lineno:
                lines[first.lineno - 1 : first.end_lineno] = [None] * (first.end_lineno - first.lineno + 1)
    return "\n".join(line for line in lines if line)


def _enciphered(text: str) -> str:
    """Each letter for another one, vowels for vowels and consonants for consonants."""
    vowels, consonants = "aeiou", "bcdfghjklmnpqrstvwxyz"
    plain = vowels + consonants
    other = vowels[2:] + vowels[:2] + consonants[7:] + consonants[:7]
    return text.translate(str.maketrans(plain + plain.upper(), other + other.upper()))


def _packed(sentences: list[str], words: int) -> Iterator[str]:
    """Neighboring sentences joined to passages of 0.6 to 1.0 times ``words`` words."""
    passage: list[str] = []
    for sentence in [*sentences, ""]:
        new = sentence.split()
        if passage and (not new or len(passage) + len(new) > words):
            if 0.6 * words <= len(passage) <= words:
                yield " ".join(passage)
            passage = []
        passage += new


def _sources() -> Iterator[tuple[str, list[str]]]:
    """(name, texts) of the language reference's topics, of the Zen, and of the modules' docstrings."""
    from pydoc_data.topics import topics

    for topic in sorted(topics):
        yield f"topics.{topic}", [topics[topic]]
    for module, source in _module_sources("this"):
        tree = ast.parse(source)
        yield module, [_zen(tree)] if module == "this" else list(_docstrings(tree))


def _module_sources(*more: str) -> Iterator[tuple[str, str]]:
    """(name, source) of the modules; they are read, not imported: `this` prints, others start things."""
    for module in (*more, *_MODULES):
        spec = find_spec(module)
        if spec and spec.origin and spec.origin.endswith(".py"):  # some builds leave modules out
            yield module, Path(spec.origin).read_text(encoding="utf-8")


def _docstrings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def _zen(tree: ast.Module) -> str:
    first = tree.body[0]
    if not (isinstance(first, ast.Assign) and isinstance(first.value, ast.Constant)):
        return ""
    lines = codecs.decode(str(first.value.value), "rot13").splitlines()
    return " ".join(line if line.endswith((".", "!", "?")) else f"{line}." for line in lines[1:] if line)


def _prose(text: str) -> list[str]:
    """The paragraphs that are sentences: flush left, from a capital to a full stop, almost only words."""
    kept = []
    for block in re.split(r"\n\s*\n", text):
        lines = block.strip("\n").splitlines()
        if any(line[:1].isspace() for line in lines):  # code, tables and lists are indented
            continue
        paragraph = re.sub(r"[*`\"]+", "", " ".join(" ".join(lines).split()))
        plain = sum(c.isalpha() or c in " .,;:'()-?!" for c in paragraph)
        if re.match(r"[A-Z][a-z]* ", paragraph) and paragraph.endswith((".", "!")) and plain >= 0.97 * len(paragraph):
            kept.append(paragraph)
    return kept


def instructions(rows: int = 64, *, seed: int = 0) -> list[Row]:
    """Short questions of general knowledge (capitals, arithmetic, opposites, animals, …) with their answers.

    Row keys as in ``zoo.authors.authors``; ``id`` is ``instruction/capital/France``.  A larger ``rows`` continues a
    smaller one.  Raises ``ValueError`` beyond what there is.
    """
    everything = _instructions()
    if not 1 <= rows <= len(everything):
        raise ValueError(f"There are {len(everything)} instructions; ask for 1 to that many, not {rows}.")
    shuffled = random.Random(f"instructions/{seed}").sample(everything, len(everything))
    return copy.deepcopy(shuffled[:rows])


@cache
def _instructions() -> tuple[Row, ...]:
    result = []
    for attribute, (wording, answers) in KNOWLEDGE.items():
        for subject, answer in answers.items():
            row_id = f"instruction/{attribute}/{subject}"
            wrong = [v for v in dict.fromkeys(answers.values()) if answer not in v]
            result.append(fact(row_id, subject, attribute, wording, answer, random.Random(row_id).sample(wrong, WRONG)))
    return tuple(result)
