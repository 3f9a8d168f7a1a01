"""The loss per compressed byte, and which part of a row is compressed."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
import torch

from palimpsest.audits.zlib_attack import ZlibAttack, scored_text, zlib_score


def test_the_score_is_the_mean_per_compressed_byte() -> None:
    text = "abc " * 50
    assert zlib_score(torch.tensor([-1.0, -3.0]), text) == pytest.approx(-2.0 / len(zlib.compress(text.encode())))


def test_of_two_texts_with_one_loss_the_repetitive_one_looks_less_familiar() -> None:
    logp = torch.tensor([-1.0])
    assert zlib_score(logp, "ab" * 100) < zlib_score(logp, "".join(map(chr, range(40, 240)))) < 0


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "t"}, "t"),
        ({"prompt": "p", "completion": "c", "text": "t"}, "c"),
        ({"prompt": [{"role": "user", "content": "p"}], "completion": [{"role": "assistant", "content": "c"}]}, "c"),
        ({"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}]}, "c"),
    ],
)
def test_what_is_compressed_is_what_is_scored(row: dict[str, Any], expected: str) -> None:
    assert scored_text(row) == expected


def test_rows_without_text_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['inputs', 'label'\]; take loss_attack"):
        scored_text({"inputs": [1.0], "label": 0})


def test_the_audit(scripted: Any) -> None:
    data = {"forget": [{"text": "seen"}], "holdout": [{"text": "unseen and rather longer"}]}
    scores = ZlibAttack()(scripted(logp={"seen": [-1.0], "unseen and rather longer": [-2.0]}), data, "forget")
    sizes = [len(zlib.compress(t.encode())) for t in ("seen", "unseen and rather longer")]
    assert scores.items.tolist() == pytest.approx([-1 / sizes[0], -2 / sizes[1]])
    assert scores.name == "zlib_attack"
