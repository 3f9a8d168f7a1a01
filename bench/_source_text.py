"""Text that every machine with a Python has: the source of the standard library and of installed packages."""

from __future__ import annotations

import hashlib
import importlib.util
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["Text", "prepared"]

PACKAGES = ("torch", "transformers", "numpy", "scipy", "sklearn", "pandas", "triton", "accelerate", "datasets")
"""Whose source is read after that of the standard library, where they are installed and until there is enough."""


def files() -> Iterator[Path]:
    """Python files of the standard library and then of the packages, without tests."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found = [library] + [
        Path(spec.origin).parent for name in PACKAGES if (spec := importlib.util.find_spec(name)) and spec.origin
    ]
    for root in found:
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).parts
            if not any(p in ("site-packages", "dist-packages") or p.startswith(("test", "idle_test")) for p in parts):
                yield path


def texts(megabytes: int, held_out: int) -> tuple[list[str], list[str]]:
    """Files to read, and those held out; a file that occurs twice is taken once."""
    seen: set[str] = set()
    read, held = [], []
    left = megabytes * 1_000_000
    for path in files():
        text = path.read_text(encoding="utf-8", errors="ignore").strip()
        digest = hashlib.sha256(text.encode()).hexdigest()
        if len(text) < 500 or digest in seen:
            continue
        seen.add(digest)
        (held if int(digest[:8], 16) % held_out == 0 else read).append(text)
        left -= len(text)
        if left < 0:
            break
    return read, held


@dataclass(frozen=True)
class Text:
    """Token ids in windows [N, T + 1]: to read, to choose a rate by, and to report; ``digest`` knows them again."""

    read: Tensor
    choosing: Tensor
    reported: Tensor
    digest: str


def prepared(megabytes: int, held_out: int, vocabulary: int, length: int, windows: int) -> Text:
    """The text, in tokens of a vocabulary made from the part that is read; one file in ``held_out`` is not read."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    read, held = texts(megabytes, held_out)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(read[::4], trainer)

    def cut(parts: Sequence[str]) -> Tensor:
        ids = [i for found in tokenizer.encode_batch(list(parts)) for i in [*found.ids, 0]]
        return torch.tensor(ids[: len(ids) // (length + 1) * (length + 1)]).view(-1, length + 1)

    halves = [cut(held[i::2]) for i in (0, 1)]
    order = torch.Generator().manual_seed(0)
    chosen = [half[torch.randperm(len(half), generator=order)[:windows]] for half in halves]
    if min(map(len, chosen)) < windows:
        raise SystemExit(f"The packages hold too little text for {windows} windows held out; install more of them.")
    digest = hashlib.sha256("".join([*read, *held]).encode()).hexdigest()[:12]
    return Text(cut(read), *chosen, digest)
