"""The report's page: safe against what models print, complete without a network, usable on a phone and by keyboard."""

import base64
import dataclasses
import hashlib
import itertools
import json
import math
import re
from typing import get_args

import pytest
import torch

from palimpsest.audit import Scores
from palimpsest.measure import build_report
from palimpsest.page import render
from palimpsest.page.charts import Mark, curve_panel, thin, ticks
from palimpsest.page.charts import tradeoff as draw_tradeoff
from palimpsest.page.text import clean, duration, embed, marked, prose
from palimpsest.report import Curve, Matrix, Report, Run, Score, StageFigure, Versus
from palimpsest.verdict import Finding, Verdict

# ------------------------------------------------------------------------------------------------ safety


def test_nothing_a_model_prints_becomes_markup(nasty, read_page, hostile):
    elements = read_page(nasty)
    assert elements.all("script") == [{"type": "application/json", "id": "data"}, {}]
    assert not elements.all("img") and len(elements.all("style")) == 1
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    for text in hostile[:4]:
        assert text in elements.texts["p"]
    assert "right⟨U+202E⟩to left⟨U+202C⟩, a bell ⟨U+0007⟩, a null ⟨U+0000⟩" in elements.texts["p"]
    assert "half ⟨U+D83D⟩ of an emoji, \U0001f469\u200d\U0001f52c" in elements.texts["p"]
    assert hostile[5] in elements.texts["p"]
    nasty.encode("utf-8")


def test_the_policy_allows_the_page_s_own_script_only(nasty, read_page):
    elements = read_page(nasty)
    (policy,) = [a["content"] for a in elements.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ") and "style-src 'unsafe-inline'" in policy
    script = nasty.rsplit("<script>", 1)[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy


def test_the_page_asks_for_nothing_outside_itself(report, read_page):
    page = render(report)
    elements = read_page(page)
    for tag in ("link", "iframe", "object", "embed", "audio", "video", "base", "form"):
        assert not elements.all(tag)
    assert not [a for _, a in elements.found if "src" in a or "srcset" in a]
    assert all(a["href"].startswith("#") for a in elements.all("a"))
    assert "url(" not in page and "@import" not in page
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page)


def test_data_for_the_script_holds_no_markup():
    text = embed({"a": "</script><!--&\u2028\ud83d"})
    assert not set("<>&\u2028") & set(text) and text.isascii()
    assert json.loads(text) == {"a": "</script><!--&\u2028\ud83d"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        embed({"a": math.nan})


# -------------------------------------------------------------------------------------- what it shows


def test_the_verdicts_come_first_with_words_and_figures(report, read_page):
    page = render(report)
    assert (
        page.index('id="verdicts"')
        < page.index('id="tradeoff"')
        < page.index('id="figures"')
        < page.index('id="items"')
    )
    text = read_page(page).texts
    assert "Of 5 expectations: " in text["p"]
    for verdict in report.verdicts:
        assert verdict.verdict.capitalize() in text["strong"]
    assert report.warnings[0] in text["li"]


def test_the_page_is_marked_up_for_readers_who_cannot_see_it(report, read_page):
    elements = read_page(render(report))
    assert elements.all("html")[0]["lang"] == "en"
    for landmark in ("header", "main", "nav", "footer"):
        assert len(elements.all(landmark)) == 1
    assert {"class": "skip", "href": "#main"} in elements.all("a")
    ids = [a["id"] for _, a in elements.found if "id" in a]
    assert len(ids) == len(set(ids))
    for attributes in elements.all("section"):
        assert attributes["aria-labelledby"] in ids
    for attributes in elements.all("a"):
        assert attributes["href"][1:] in ids
    assert len(elements.all("caption")) == len(elements.all("table"))
    assert all(a.get("scope") in ("row", "col") for a in elements.all("th"))
    drawings = elements.all("svg")
    assert drawings and all(a.get("aria-hidden") == "true" or a.get("aria-label") for a in drawings)
    headings = [int(tag[1]) for tag, _ in elements.found if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(headings))


def test_undefined_values_are_dashes(read_page):
    one = Scores("recall", torch.tensor([0.5]), ("a",), "higher", "task")
    runs = [Run("before", "before"), Run("after", "after")]
    lone = build_report("one", {"before": {0: [one]}, "after": {0: [one]}}, runs, created="2026-01-01")
    page = render(lone)
    assert "nan" not in read_page(page).texts["body"].replace("nano", "") and ">–" in page


def test_an_empty_report_is_a_page():
    page = render(Report("empty", "2026-01-01"))
    assert "No expectation was stated" in page
    with pytest.raises(ValueError, match="at least one"):
        render([])


def test_several_reports_share_a_page(report, read_page, make_report):
    page = render([report, report, make_report("other", seeds=(0,))])
    text = read_page(page).texts
    names = ("npo on forget10 · NPO", "npo on forget10 (2) · NPO", "other · NPO")
    assert all(name in text["th"] for name in names)
    assert len(re.findall('<li class="verdict ', page)) == 15
    assert "npo on forget10 against npo on forget10 (2) against other" in text["h1"]


def test_a_matrix_shows_its_figures(report):
    page = render(report)
    assert '<td class="n" style="--share:100%">0.97</td>' in page and "−0.27 <span" in page and "[−0.33, −0.21]" in page


def with_a_variant(gap: StageFigure, less: StageFigure) -> Report:
    cells = ((0.1, 0.2), (0.9, 0.8))
    naive = Matrix("recall", ("before", "continue"), ("old", "new"), cells, figures=(gap,))
    mixed = dataclasses.replace(naive, run="mixed", differences=(less,))
    runs = (Run("after", "after", "plain"), Run("mixed", "variant", "the <mixture>"))
    scores = tuple(Score(run.name, "old", "recall", 0.8, 0.7, 0.9, 10) for run in runs)
    versus = (Versus("mixed", "old", "recall", "after", "difference", 0.12, 0.05, 0.2, 0.003),)
    return Report("r", "2026-01-01", runs=runs, scores=scores, versus=versus, matrices=(naive, mixed), seeds=(0,))


def test_variants_stand_beside_their_paired_differences_to_the_run_after(read_page):
    report = with_a_variant(StageFigure("gap_depth", 0.25, 0.1, 0.3), StageFigure("gap_depth", -0.06, -0.11, -0.01))
    page = render(report)
    text = re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", page).replace("\u00a0", " "))
    assert "Figure the &lt;mixture&gt; gap depth −0.06 [−0.11, −0.01]" in text
    assert "Figure the &lt;mixture&gt; old recall +0.12 [0.05, 0.20]" in text
    captions = re.findall("<caption>(.*?)</caption>", page)
    assert sum("minus the run after, paired" in caption for caption in captions) == 2
    plain = dataclasses.replace(report, versus=(), matrices=report.matrices[:1])
    assert "minus the run after" not in render(plain)
    twice = render([report, report])  # each beside its own run after
    assert twice.count("r · the &lt;mixture&gt;</th>") == 3 and "r (2) · the &lt;mixture&gt;" in twice


@pytest.mark.parametrize("over_items", [True, False])
def test_the_page_says_what_its_intervals_are_over(over_items):
    figure = StageFigure("gap_depth", 0.25, 0.1, 0.3, over_items=over_items)
    page = render(with_a_variant(figure, figure))
    assert ("over seeds alone" in page) != over_items and "Intervals are over items and seeds" in page


# ------------------------------------------------------------------------------------- text and drawing


def test_words_of_the_answer_are_marked():
    assert marked("He was <a florist>.", "A florist") == "He was <mark>&lt;a florist&gt;.</mark>"
    assert marked("the end", "the start") == "the end"
    assert "(empty)" in marked("  ", "x")
    assert marked("x" * 2500, "").endswith("500 more characters are in report.json</span>")


def test_text_helpers():
    assert clean("a\r\nb\tc") == "a\nb\tc"
    assert prose("a 95 % interval") == "a 95\u00a0% interval"
    assert prose("from -0.5 to 3-4, GPT-2, x -1") == "from −0.5 to 3-4, GPT-2, x −1"
    assert [duration(s) for s in (None, 0.5, 42, 134, 3920, math.nan)] == [
        "–",
        "0.5 s",
        "42 s",
        "2 min 14 s",
        "1 h 05 min",
        "–",
    ]


def test_ticks_are_round_and_inside():
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(-0.13, 0.31) == [-0.1, 0.0, 0.1, 0.2, 0.3]
    assert ticks(2.0, 2.0) == [2.0]


def test_thinning_keeps_ends_and_spikes():
    points = [(float(i), 0.0) for i in range(5000)]
    points[1234] = (1234.0, 9.0)
    kept = thin(points)
    assert kept[0] == points[0] and kept[-1] == points[-1] and (1234.0, 9.0) in kept and len(kept) <= 260
    assert [p[0] for p in kept] == sorted(p[0] for p in kept)


def test_labels_of_the_tradeoff_do_not_cover_each_other():
    marks = [
        Mark(f"run number {i}", "baseline", (0.5 + 0.01 * i, math.nan, math.nan), (0.5, 0.4, 0.6)) for i in range(5)
    ]
    marks.append(Mark("far", "after", (2.0, 1.9, 2.1), (2.0, 1.9, 2.1)))
    drawing = draw_tradeoff(marks, "x", "y")
    spots = [(float(x), float(y)) for x, y in re.findall(r'class="name [a-z]+" x="([-\d.]+)" y="([-\d.]+)"', drawing)]
    boxes = [(x, y - 12, 7.2 * len(m.label), 16) for (x, y), m in zip(spots, marks)]
    for i, (a, b, w, h) in enumerate(boxes):
        for c, d, v, g in boxes[:i]:
            assert not (a < c + v and c < a + w and b < d + g and d < b + h)


@pytest.mark.parametrize("runs", [3, 30])
def test_names_of_curves_stay_in_their_panel_and_apart(runs):
    """All curves end at the lower edge, where the next panel begins."""
    curves = [Curve(f"run {i}", "loss", ((0.0, 1.0), (9.0, 0.0))) for i in range(runs)]
    drawing = curve_panel("loss", curves, {}, {})
    height = float(re.search(r'viewBox="0 0 340 (\d+)"', drawing)[1])
    spots = [float(y) for y in re.findall(r'class="name [^"]*" x="[-\d.]+" y="([-\d.]+)"', drawing)]
    assert len(spots) == runs and min(spots) >= 10 and max(spots) <= height
    assert all(b - a >= 12.9 for a, b in itertools.pairwise(spots))


def contrast(first, second):
    """WCAG 2 contrast ratio of two #rrggbb colors."""

    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    a, b = sorted((luminance(first), luminance(second)), reverse=True)
    return (a + 0.05) / (b + 0.05)


def test_colors_have_enough_contrast(report):
    page = render(report)
    themes = re.findall(r"--paper: (#\w{6}); --ink: (#\w{6}); --muted: (#\w{6}); .*?--accent: (#\w{6});", page)
    assert len(themes) == 3
    for paper, *inks in themes:
        assert all(contrast(paper, ink) >= 4.5 for ink in inks)
        # The darkest cell of a heat map mixes 34 % of the accent into the paper.
        mixed = [round(0.34 * int(inks[2][i : i + 2], 16) + 0.66 * int(paper[i : i + 2], 16)) for i in (1, 3, 5)]
        assert contrast("#{:02x}{:02x}{:02x}".format(*mixed), inks[0]) >= 4.5


def test_every_finding_has_a_sign_of_its_own(read_page):
    """Also in black and white: no two share a drawing."""
    findings = get_args(Finding)
    verdicts = tuple(Verdict("after", "task", f"audit {i}", "lower", f, "It fell.") for i, f in enumerate(findings))
    page = render(Report("findings", "2026-01-01", verdicts=verdicts))
    drawn = re.findall(r'<li class="verdict ([a-z-]+)">.*?<svg class="sign"[^>]*>(.*?)</svg>', page)
    assert [name.replace("-", " ") for name, _ in drawn] == list(findings)
    assert len({drawing for _, drawing in drawn}) == len(findings)
    assert f"1 {findings[0]}" in page and "1 failed" in page
    assert all(re.search(rf"(^|, )\.{name} \.sign", page, re.MULTILINE) for name, _ in drawn), "each has a style"
