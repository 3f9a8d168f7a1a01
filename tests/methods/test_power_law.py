"""A power law: known constants come back, intervals cover, and tables that cannot determine it are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from palimpsest import names
from palimpsest.laws.power_law import PowerLaw, regression, search


def table(x, e=1.7, a=400.0, alpha=0.34, noise=0.0, seed=0):
    values = e + a * np.asarray(x, dtype=float) ** -alpha
    values = values + noise * np.random.default_rng(seed).standard_normal(len(values))
    return [{"x": float(u), "loss": float(v)} for u, v in zip(x, values)]


SIZES = np.logspace(6, 9, 12)


@pytest.mark.parametrize(
    ("e", "a", "alpha"), [(1.7, 400.0, 0.34), (0.0, 5.0, 0.076), (2.0, 1e4, 0.9), (0.9, -3.0, 0.2)]
)
def test_known_constants_come_back(e, a, alpha):
    fitted = PowerLaw().fit(table(SIZES, e, a, alpha))
    assert fitted.alpha == pytest.approx(alpha, rel=1e-5)
    assert fitted.a == pytest.approx(a, rel=1e-3)
    assert fitted.e == pytest.approx(e, abs=1e-4)
    assert fitted.predict({"x": 1e11}).mean == pytest.approx(e + a * 1e11**-alpha, abs=1e-4)


def test_text_as_a_csv_file_gives_it_fits_alike():
    rows = table(SIZES, noise=0.01)
    written = [{k: repr(v) for k, v in row.items()} for row in rows]
    assert PowerLaw().fit(written).alpha == PowerLaw().fit(rows).alpha


def test_regression_equals_ordinary_least_squares():
    log_x, y = np.linspace(-2, 3, 9), np.random.default_rng(1).standard_normal(9)
    design = np.stack([np.ones(9), np.exp(-0.4 * log_x)], axis=1)
    (e, a), ssr, *_ = np.linalg.lstsq(design, y, rcond=None)
    assert regression(log_x, y, 0.4) == pytest.approx((ssr[0], e, a), rel=1e-9)


def test_no_exponent_is_better_than_the_one_found():
    rows = table(SIZES, noise=0.02, seed=3)
    log_x = np.log([r["x"] for r in rows])
    log_x -= log_x.mean()
    y = np.array([r["loss"] for r in rows])
    best, alpha = search(log_x, y)[0]
    brute = min(regression(log_x, y, s)[0] for s in np.exp(np.linspace(math.log(0.005), math.log(5), 4000)))
    assert best <= brute * (1 + 1e-12)
    assert abs(math.log(alpha / 0.34)) < 0.5


def test_objectives_of_all_starts_are_kept_in_order():
    fitted = PowerLaw().fit(table(SIZES, noise=0.01))
    assert len(fitted.objectives) == 8 and list(fitted.objectives) == sorted(fitted.objectives)
    residuals = [r["loss"] - fitted.predict({"x": r["x"]}).mean for r in table(SIZES, noise=0.01)]
    assert fitted.objectives[0] == pytest.approx(sum(r * r for r in residuals), rel=1e-9)


@pytest.mark.parametrize("x", [3e7, 1e10])
def test_the_interval_covers_a_new_measurement_in_95_of_100_cases(x):
    truth, noise, covered, trials = 1.7 + 400.0 * x**-0.34, 0.02, 0, 300
    fresh = np.random.default_rng(99)
    for seed in range(trials):
        prediction = PowerLaw().fit(table(SIZES, noise=noise, seed=seed)).predict({"x": x})
        covered += prediction.low <= truth + noise * fresh.standard_normal() <= prediction.high
    assert 0.90 <= covered / trials <= 0.985, covered / trials  # 95 % and three standard errors


def test_farther_out_is_less_certain():
    fitted = PowerLaw().fit(table(SIZES, noise=0.02))
    widths = [p.high - p.low for p in (fitted.predict({"x": x}) for x in (1e8, 1e10, 1e13))]
    assert widths[0] < widths[1] < widths[2]


def test_three_rows_fit_exactly_and_promise_nothing():
    fitted = PowerLaw().fit(table([1e6, 1e7, 1e8]))
    prediction = fitted.predict({"x": 1e9})
    assert prediction.mean == pytest.approx(1.7 + 400 * 1e9**-0.34, rel=1e-4)
    assert (prediction.low, prediction.high) == (-math.inf, math.inf)


def test_describe_names_the_columns_and_the_constants():
    rows = [{"tokens": r["x"], "nll": r["loss"]} for r in table(SIZES, noise=1e-4)]
    law = PowerLaw("tokens", "nll")
    text = law.fit(rows).describe()
    assert text.startswith("nll = 1.6999 + 399.86 tokens^-0.34") and "12 rows" in text and "8 of 8 starts agree" in text
    assert law.variables == ("tokens",) and law.target == "nll"


def test_it_is_found_by_its_name():
    assert names.resolve("power_law", "laws") is PowerLaw


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (table(SIZES)[:2], "at least three different x, not 2"),
        ([], "at least three different x, not 0"),
        ([{"x": 5.0, "loss": v} for v in (1.0, 2.0, 3.0, 4.0)], "at least three different x, not 1"),
        ([{"x": 1.0}, {"x": 2.0}, {"x": 3.0}], "'loss', which row 1 of the table lacks"),
        ([{"loss": 1.0}], "'x', which row 1 of the table lacks"),
        ([*table(SIZES), {"x": "1e9", "loss": "much"}], "the loss of row 13 is 'much'"),
        ([*table(SIZES), {"x": "", "loss": "2"}], "the x of row 13 is ''"),
        ([{"x": x, "loss": 2.0 + x} for x in (-1.0, 1.0, 2.0, 3.0)], "the x of row 1 is -1"),
        ([{"x": x, "loss": 2.0} for x in (1.0, 2.0, 3.0, 4.0)], "2 in every row"),
        ([{"x": x, "loss": x} for x in (1.0, 2.0, 3.0, 4.0)], "No power law fits"),
    ],
)
def test_tables_that_cannot_be_fitted_end_with_a_sentence(rows, says):
    with pytest.raises(ValueError) as error:
        PowerLaw().fit(rows)
    assert says in str(error.value) and str(error.value).endswith((".", ").")) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("point", "says"), [({}, "give x=number"), ({"x": 0.0}, "above 0"), ({"x": math.nan}, "above 0")]
)
def test_points_that_have_no_prediction(point, says):
    with pytest.raises(ValueError, match=says):
        PowerLaw().fit(table(SIZES)).predict(point)
