"""The report's page in headless Chromium: its script runs, nothing else does, and both themes are painted."""

import base64
import hashlib
import json
import re
import struct
import zlib

import pytest

from palimpsest.page import render


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    """``opened(page, *flags)``: the page after its script, and the picture that ``--screenshot=OUT`` takes of it."""

    def run(page, *flags):
        folder = tmp_path_factory.mktemp("page")
        (folder / "page.html").write_text(page, "utf-8")
        shot = folder / "shot.png"
        flags = ("--hide-scrollbars", *(flag.replace("OUT", str(shot)) for flag in flags))
        dom = browser((folder / "page.html").as_uri(), *flags)
        return dom, shot.read_bytes() if shot.exists() else b""

    return run


def probe(page, script):
    """``page`` with one more script that its policy admits, to act as a reader would."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = page.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    return page.replace("</body>", f"<script>{script}</script></body>")


def test_the_script_runs_and_nothing_else_does(opened, nasty, read_page):
    watch = "addEventListener('securitypolicyviolation', () => { document.documentElement.dataset.blocked = 'true'; });"
    trap = nasty.replace("<body>", "<body><script>document.documentElement.dataset.injected = 'true'</script>", 1)
    dom, _ = opened(probe(trap, watch), "--dump-dom")
    root = read_page(dom).all("html")[0]
    assert root["data-ready"] == "true" and "data-injected" not in root
    clean_dom, _ = opened(probe(nasty, watch), "--dump-dom")
    root = read_page(clean_dom).all("html")[0]
    assert root["data-ready"] == "true" and "data-blocked" not in root


def test_a_reader_can_sort_choose_axes_and_change_the_theme(opened, report, read_page):
    script = """
      const out = {};
      const heads = [...document.querySelectorAll('.sortable th[scope=col]')];
      const head = heads.find(h => h.textContent.startsWith('Value'));
      head.querySelector('button').click();
      out.sort = head.getAttribute('aria-sort');
      out.values = [...document.querySelectorAll('.sortable tbody tr')].map(r => r.cells[1].dataset.sort ?? '');
      const run = heads[0].querySelectorAll('button')[1];
      run.click();
      out.by_run = [...document.querySelectorAll('.sortable tbody .run')].map(r => r.textContent);
      out.named = [...document.querySelectorAll('.sortable tbody .figure-of')].every(f => f.offsetHeight > 5);
      const pressed = run.getAttribute('aria-pressed');
      out.sorted = [heads[0].getAttribute('aria-sort'), pressed, head.getAttribute('aria-sort')];
      heads[0].querySelector('button').click();
      const shown = [...document.querySelectorAll('.sortable tbody tr')].map(
        r => [r.querySelector('.figure-of').textContent, r.querySelector('.figure-of').offsetHeight > 5]);
      out.once = shown.map(([name, seen], i) => seen === (i === 0 || shown[i - 1][0] !== name)).every(Boolean);
      const across = document.querySelector('#axis-x');
      out.served = document.querySelectorAll('.tradeoff .name').length;
      out.hidden = across.closest('.choices').hidden;
      across.value = '2'; across.dispatchEvent(new Event('change'));
      out.title = document.querySelector('.tradeoff title').textContent;
      out.names = [...document.querySelectorAll('.tradeoff .name')].map(n => n.textContent);
      document.querySelector('#theme').click();
      out.theme = document.documentElement.dataset.theme;
      out.wide = document.documentElement.scrollWidth - innerWidth;
      document.documentElement.dataset.probe = JSON.stringify(out);
    """
    dom, _ = opened(probe(render(report), script), "--dump-dom", "--window-size=1280,900")
    out = json.loads(read_page(dom).all("html")[0]["data-probe"])
    values = [float(v) for v in out["values"]]
    assert out["sort"] == "descending" and values == sorted(values, reverse=True)
    assert out["by_run"] == sorted(out["by_run"], key=str.casefold) and out["sorted"] == ["ascending", "true", "none"]
    assert out["named"], "sorted by run, every row says which figure it is"
    assert out["once"], "sorted by figure, a figure is named in its first row"
    assert out["served"] == 5 and not out["hidden"]
    assert "against forget / privacy leakage" in out["title"]
    assert sorted(out["names"]) == sorted(run.label for run in report.runs)
    assert out["theme"] == "dark" and out["wide"] <= 0


def test_the_script_draws_the_tradeoff_as_the_page_was_served(opened, report, read_page):
    page = render(report)
    served = re.findall(r'<text class="name [a-z]+" x="([-\d.]+)" y="([-\d.]+)"', page[page.index('id="tradeoff"') :])[
        :5
    ]
    script = """
      document.documentElement.dataset.probe = JSON.stringify(
        [...document.querySelectorAll('.tradeoff .name')].map(n => [n.getAttribute('x'), n.getAttribute('y')]));
    """
    dom, _ = opened(probe(page, script), "--dump-dom")
    drawn = json.loads(read_page(dom).all("html")[0]["data-probe"])
    assert [[float(v) for v in spot] for spot in drawn] == [
        pytest.approx([float(v) for v in s], abs=0.06) for s in served
    ]


def framed(page, width):
    """``page`` in a frame of that width, for windows that no browser makes so narrow, and what its tables do there."""
    source = page.replace("&", "&amp;").replace('"', "&quot;")
    script = """
      addEventListener('load', () => {
        const d = document.querySelector('iframe').contentDocument;
        const out = {wide: d.documentElement.scrollWidth, frames: []};
        for (const f of d.querySelectorAll('.scroll')) {
          for (let up = f.parentElement; up; up = up.parentElement) if (up.tagName === 'DETAILS') up.open = true;
          f.scrollLeft = 9999;
          const left = f.getBoundingClientRect().left;
          const names = [...f.querySelectorAll('tr > :first-child')].map(c => c.getBoundingClientRect());
          out.frames.push({
            moved: f.scrollLeft, inside: f.clientWidth, whole: f.scrollWidth,
            named: names.every(c => Math.abs(c.left - left) < 1.5 && c.width < 0.55 * f.clientWidth + 1),
            reached: f.tabIndex === 0,
          });
        }
        out.opened = d.documentElement.scrollWidth;
        document.documentElement.dataset.probe = JSON.stringify(out);
      });
    """
    frame = f'<iframe style="width:{width}px;height:800px;border:0" srcdoc="{source}"></iframe>'
    return f"<!DOCTYPE html><body>{frame}<script>{script}</script>"


@pytest.mark.parametrize("width", [390, 1200, 1600])
@pytest.mark.parametrize("reports", [1, 4])
def test_tables_scroll_in_frames_of_their_own_and_keep_the_names_of_rows_in_sight(
    opened, report, read_page, make_report, width, reports
):
    """The page itself never scrolls sideways, however many runs and however long their names."""
    page = render([report, *(make_report(f"another report with a long name {i}") for i in range(1, reports))])
    dom, _ = opened(framed(page, width), "--dump-dom", "--window-size=1800,1000")
    out = json.loads(read_page(dom).all("html")[0]["data-probe"])
    assert out["wide"] <= width and out["opened"] <= width
    assert len(out["frames"]) >= 4 and all(f["reached"] and f["named"] for f in out["frames"]), out["frames"]
    if width == 390:
        assert any(f["moved"] > 0 for f in out["frames"])
    if width >= 1200 and reports == 1:
        assert all(f["whole"] <= f["inside"] for f in out["frames"]), "one report fits a window of 1,200 pixels"


def pixels(png):
    """Width, height and the color of the first pixel of a PNG."""
    width, height, _, kind = struct.unpack(">IIBB", png[16:26])
    data, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        data += png[at + 8 : at + 8 + length] if png[at + 4 : at + 8] == b"IDAT" else b""
        at += 12 + length
    assert kind in (2, 6)
    return width, height, tuple(zlib.decompress(data)[1:4])


@pytest.mark.parametrize(("theme", "paper"), [("light", (0xFB, 0xFA, 0xF6)), ("dark", (0x17, 0x16, 0x14))])
def test_both_themes_are_painted(opened, report, theme, paper):
    page = render(report).replace('<html lang="en">', f'<html lang="en" data-theme="{theme}">')
    _, shot = opened(page, "--screenshot=OUT", "--window-size=900,1200")
    assert pixels(shot) == (900, 1200, paper)
