"""Handwritten digits of 8 by 8 pixels, as they come with scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from palimpsest.audit import Row

__all__ = ["digits", "of_classes", "seen_otherwise"]


def digits(*, seed: int = 0, test: float = 0.2) -> tuple[list[Row], list[Row]]:
    """``(train, test)`` of 1,797 digits, where every class has the share ``test`` (between 0 and 1) in the test set.

    Row keys: ``id`` (digit-0007: its place in scikit-learn's set), ``inputs`` (float32 [64], 0 to 1), ``label`` (0-9).
    """
    if not 0 < test < 1:
        raise ValueError(f"test is a share between 0 and 1, not {test}.")
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The zoo's digits need the package scikit-learn: pip install scikit-learn.", name="sklearn"
        ) from error
    import torch

    images, labels = load_digits(return_X_y=True)
    inputs = torch.as_tensor(images, dtype=torch.float32) / 16  # [1797, 64]; pixels are 0 to 16
    rows: list[Row] = [
        {"id": f"digit-{i:04d}", "inputs": inputs[i], "label": int(label)} for i, label in enumerate(labels)
    ]
    train_part, test_part = train_test_split(range(len(rows)), test_size=test, random_state=seed, stratify=labels)
    return [rows[i] for i in sorted(train_part)], [rows[i] for i in sorted(test_part)]


def of_classes(
    rows: list[Row], *, classes: Collection[int] | None = None, without: Collection[int] | None = None
) -> list[Row]:
    """The rows whose label is one of ``classes`` (None: any) and none of ``without``, in their order.

    Raises ``ValueError`` for a class that is no digit, and when no row is left.
    """
    for wanted in (*(classes or ()), *(without or ())):
        if not 0 <= wanted <= 9:
            raise ValueError(f"a class is a digit from 0 to 9, not {wanted}.")
    kept = [r for r in rows if (classes is None or r["label"] in classes) and r["label"] not in (without or ())]
    if not kept:
        raise ValueError("no class is left; name fewer under without, or others under classes.")
    return kept


def seen_otherwise(rows: list[Row], *, rotate: float = 0.0, contrast: float = 1.0) -> list[Row]:
    """The same digits in another domain: turned left by ``rotate`` degrees, then grey + ``contrast`` * (pixel - grey).

    Grey is 0.5, so a contrast of -1 is the negative.  Turning by other than right angles interpolates, with black
    outside.  The ids are those of the domain (digit-0007@90x-1), since they are other rows.
    """
    import torch
    import torch.nn.functional as F

    if not (math.isfinite(rotate) and math.isfinite(contrast)) or contrast == 0:
        raise ValueError(f"rotate and contrast are finite numbers, contrast not 0; they are {rotate} and {contrast}.")
    if rotate == 0 and contrast == 1:
        return list(rows)
    pictures = torch.stack([row["inputs"] for row in rows]).view(-1, 1, 8, 8)
    quarters = rotate % 360 / 90
    if quarters == int(quarters):
        pictures = torch.rot90(pictures, int(quarters), (2, 3))  # exact
    elif rotate:
        angle = math.radians(rotate)
        turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])
        grid = F.affine_grid(turn.expand(len(rows), 2, 3), list(pictures.shape), align_corners=False)
        pictures = F.grid_sample(pictures, grid, align_corners=False)
    pictures = (0.5 + contrast * (pictures - 0.5)).reshape(-1, 64)
    return [{**row, "id": f"{row['id']}@{rotate:g}x{contrast:g}", "inputs": x} for row, x in zip(rows, pictures)]
