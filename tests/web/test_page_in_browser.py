"""The report's page in headless Chromium: its script runs, nothing else does, and both themes are painted."""

import base64
import hashlib
import json
import re
import shutil
import struct
import subprocess
import zlib

import pytest

from palimpsest.page import render


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium found")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

    def run(page, *extra):
        folder = tmp_path_factory.mktemp("browser")
        (folder / "page.html").write_text(page, "utf-8")
        command = [program, *flags, f"--user-data-dir={folder / 'profile'}", *extra]
        command = [part.replace("OUT", str(folder / "shot.png")) for part in command]
        done = subprocess.run([*command, (folder / "page.html").as_uri()], capture_output=True, timeout=120)
        shot = folder / "shot.png"
        return done.stdout.decode("utf-8", "replace"), shot.read_bytes() if shot.exists() else b""

    return run


def probe(page, script):
    """``page`` with one more script that its policy admits, to act as a reader would."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = page.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    return page.replace("</body>", f"<script>{script}</script></body>")


def test_the_script_runs_and_nothing_else_does(browser, nasty, read_page):
    watch = "addEventListener('securitypolicyviolation', () => { document.documentElement.dataset.blocked = 'true'; });"
    trap = nasty.replace("<body>", "<body><script>document.documentElement.dataset.injected = 'true'</script>", 1)
    dom, _ = browser(probe(trap, watch), "--dump-dom")
    root = read_page(dom).all("html")[0]
    assert root["data-ready"] == "true" and "data-injected" not in root
    clean_dom, _ = browser(probe(nasty, watch), "--dump-dom")
    root = read_page(clean_dom).all("html")[0]
    assert root["data-ready"] == "true" and "data-blocked" not in root


def test_a_reader_can_sort_choose_axes_and_change_the_theme(browser, report, read_page):
    script = """
      const out = {};
      const heads = [...document.querySelectorAll('.sortable th[scope=col]')];
      const head = heads.find(h => h.textContent.startsWith('Value'));
      head.querySelector('button').click();
      out.sort = head.getAttribute('aria-sort');
      out.values = [...document.querySelectorAll('.sortable tbody tr')].map(r => r.cells[2].dataset.sort ?? '');
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
    dom, _ = browser(probe(render(report), script), "--dump-dom", "--window-size=1280,900")
    out = json.loads(read_page(dom).all("html")[0]["data-probe"])
    values = [float(v) for v in out["values"]]
    assert out["sort"] == "descending" and values == sorted(values, reverse=True)
    assert out["served"] == 5 and not out["hidden"]
    assert "against forget / privacy leakage" in out["title"]
    assert sorted(out["names"]) == sorted(run.label for run in report.runs)
    assert out["theme"] == "dark" and out["wide"] <= 0


def test_the_script_draws_the_tradeoff_as_the_page_was_served(browser, report, read_page):
    page = render(report)
    served = re.findall(r'<text class="name [a-z]+" x="([-\d.]+)" y="([-\d.]+)"', page[page.index('id="tradeoff"') :])[
        :5
    ]
    script = """
      document.documentElement.dataset.probe = JSON.stringify(
        [...document.querySelectorAll('.tradeoff .name')].map(n => [n.getAttribute('x'), n.getAttribute('y')]));
    """
    dom, _ = browser(probe(page, script), "--dump-dom")
    drawn = json.loads(read_page(dom).all("html")[0]["data-probe"])
    assert [[float(v) for v in spot] for spot in drawn] == [
        pytest.approx([float(v) for v in s], abs=0.06) for s in served
    ]


def test_a_phone_needs_no_sideways_scrolling(browser, report, read_page):
    page = render(report).replace('"', "&quot;")
    frame = f'<!DOCTYPE html><body><iframe id="phone" style="width:390px;height:800px" srcdoc="{page}"></iframe>'
    frame += (
        "<script>addEventListener('load', () => { const d = document.querySelector('#phone').contentDocument;"
        "document.documentElement.dataset.probe = d.documentElement.scrollWidth; });</script>"
    )
    dom, _ = browser(frame, "--dump-dom")
    assert int(read_page(dom).all("html")[0]["data-probe"]) <= 390


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
def test_both_themes_are_painted(browser, report, theme, paper):
    page = render(report).replace('<html lang="en">', f'<html lang="en" data-theme="{theme}">')
    _, shot = browser(page, "--screenshot=OUT", "--window-size=900,1200")
    assert pixels(shot) == (900, 1200, paper)
