"""FILA's factors against numbers of csm9493/efficient-llm-unlearning@272484a."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from palimpsest.edits.fila import fila_factors, relative_importance

CASES = json.loads(Path(__file__).with_name("loku.json").read_text())["cases"]


def case(start: str) -> dict[str, Any]:
    (found,) = [c for c in CASES if c["what"].startswith(start)]
    return dict(found)


def run(found: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Weight, A, B, the residual and the importance."""
    given, params = found["inputs"], found["params"]
    names = ("W", "fisher_forget", "fisher_retain")
    weight, forget, retain = (torch.tensor(given[k], dtype=torch.float64) for k in names)
    importance = relative_importance(forget, retain, params["eps_importance"])
    a, b = fila_factors(weight, importance, params["rank"], params["scaling"])
    return weight, a, b, weight - params["scaling"] * b @ a, importance


def near(found: Tensor, expected: Any, scale: float) -> None:
    """The released 1 / (d + 1e-5) is off by 1e-5 / d, relatively, and ours is not."""
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=2e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("start", ["FILA initialisation, W 4x7", "FILA initialisation, W 6x5"])
def test_factors(start: str) -> None:
    found = case(start)
    weight, a, b, residual, importance = run(found)
    outputs, scale = found["outputs"], float(weight.abs().max())
    near(importance.sum(1).sqrt(), outputs["row_weight"], 1.0)
    near(residual, outputs["W_residual"], scale)
    near(weight - residual, outputs["BA_scaled"], scale)
    # The released factors belong to d itself and ours to d over its mean: A grows by the root of it, B shrinks.
    mean = float(torch.tensor(outputs["row_weight"]).mean())
    near((a @ a.T).diagonal() * mean, outputs["diag_gram_A"], scale)
    near((b.T @ b).diagonal() / mean, outputs["diag_gram_B"], scale)


def test_without_a_spectral_gap_ours_is_the_optimum() -> None:
    """The release's randomized SVD misses it by 0.4 %."""
    found = case("FILA initialisation, W 5x4")
    weight, _, _, residual, _ = run(found)
    outputs = found["outputs"]
    near(residual, outputs["W_residual_exact_svd"], float(weight.abs().max()))
    row = torch.tensor(outputs["row_weight"], dtype=torch.float64).unsqueeze(1)
    norm = float((row * residual).norm())
    assert norm == pytest.approx(outputs["weighted_residual_norm_exact_svd"], rel=1e-6)
    assert norm < outputs["weighted_residual_norm"] - 0.015
