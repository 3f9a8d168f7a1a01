"""Digits in other domains, and the small network with batch normalization for them."""

from __future__ import annotations

import math

import pytest
import torch

from palimpsest.zoo import load
from palimpsest.zoo.classifiers import classifiers, digits_cnn
from palimpsest.zoo.digits import digits, seen_otherwise


def test_turned_and_negative_digits() -> None:
    rows = digits()[1][:20]
    pictures = torch.stack([r["inputs"] for r in rows]).view(-1, 8, 8)
    left = torch.stack([r["inputs"] for r in seen_otherwise(rows, rotate=90)]).view(-1, 8, 8)
    assert torch.equal(left[:, 7 - 2, 3], pictures[:, 3, 2]), "a pixel on the left comes to the bottom"
    nearly = torch.stack([r["inputs"] for r in seen_otherwise(rows, rotate=90.001)]).view(-1, 8, 8)
    torch.testing.assert_close(nearly, left, atol=1e-3, rtol=0)
    (back,) = seen_otherwise(seen_otherwise(rows[:1], rotate=90), rotate=-90)
    assert torch.equal(back["inputs"], rows[0]["inputs"])
    (negative,) = seen_otherwise(rows[:1], contrast=-1)
    torch.testing.assert_close(negative["inputs"], 1 - rows[0]["inputs"])
    assert negative["label"] == rows[0]["label"] and negative["id"] == f"{rows[0]['id']}@0x-1"
    assert seen_otherwise(rows) == rows


@pytest.mark.parametrize("options", [{"contrast": 0.0}, {"rotate": math.inf}, {"contrast": math.nan}])
def test_what_is_no_domain_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="finite numbers"):
        seen_otherwise(digits()[1][:2], **options)


def test_a_recipe_asks_for_a_domain() -> None:
    plain = load({"zoo": "digits", "part": "test", "classes": [0, 1]})
    turned = load({"zoo": "digits", "part": "test", "classes": [0, 1], "rotate": 90, "contrast": 0.5})
    assert [r["label"] for r in turned] == [r["label"] for r in plain]
    assert not {r["id"] for r in turned} & {r["id"] for r in plain}


def test_the_network_is_the_same_for_the_same_seed_and_names_its_features() -> None:
    model, classes, features = classifiers("digits-cnn")
    kept = []
    model.get_submodule(features).register_forward_hook(lambda _, __, out: kept.append(out))
    assert model(torch.zeros(3, 64)).shape == (3, classes) and kept[0].shape == (3, 64)
    state = torch.get_rng_state()
    same, other = digits_cnn(seed=0).state_dict(), digits_cnn(seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(same["conv1.weight"], digits_cnn().state_dict()["conv1.weight"])
    assert not torch.equal(same["conv1.weight"], other["conv1.weight"])
