"""A report in a real browser: what a reader sees at a desk, on a phone, in the dark and on paper, and that
texts of strangers stay texts. It needs Chromium; without one it is skipped, unless RARL_REQUIRE_BROWSER is
set."""

import os
import re
import shutil
from dataclasses import dataclass, field, replace

import pytest

from helpers.runs import (
    SHADES,
    entry,
    group,
    make_run,
    numbers,
    predictions,
    write_lines,
)
from rarl.evaluation.results import load_metrics, write_metrics, write_predictions
from rarl.method.tasks import LONGEST_RULE
from rarl.paper.arms import PAPER_ARMS
from rarl.report.page import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
DESK, PHONE = 1280, 375
PAPER = 718  # pixels between the default margins of A4


def _absent(reason):
    if os.environ.get("RARL_REQUIRE_BROWSER"):
        pytest.fail(f"RARL_REQUIRE_BROWSER is set, and {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _absent("Python's playwright is not installed")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        _absent(f"there is no browser ({', '.join(NAMES)})")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield started
        started.close()


@dataclass
class Opened:
    """A page in a window, and what it asked for and said while it was opened."""

    page: object
    requests: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def js(self, script):
        return self.page.evaluate(script)


@pytest.fixture(scope="module")
def opening(browser):
    """`opening(FILE, width=, scheme=)`: the file in a window of its own."""
    contexts = []

    def open_file(file, *, width=DESK, scheme="light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        opened = Opened(contexts[-1].new_page())
        page = opened.page
        page.on("request", lambda request: opened.requests.append(request.url))
        page.on("console", lambda message: opened.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: opened.said.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (opened.said.append("dialog"), dialog.dismiss()))
        page.goto(file.as_uri())
        page.wait_for_load_state("load")
        return opened

    yield open_file
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of a complete run."""
    return write_report(make_run(tmp_path_factory.mktemp("runs") / "complete"))


@pytest.fixture(scope="module")
def at_desk(opening, report):
    return opening(report)


# ── what is on it ────────────────────────────────────────────────────────────────────────────────────────

TABLES = """
Object.fromEntries([...document.querySelectorAll("table")].map(table => [
  table.caption.innerText,
  [...table.rows].map(row => [...row.cells].map(cell => cell.innerText.trim()))
]))"""


def test_the_tables_have_their_captions_headers_and_cells(at_desk):
    tables = at_desk.js(TABLES)
    assert list(tables) == [
        "shades, test split, seed 0",
        "Expected values",
        "By light",
        "How the arms were trained",
        "All metrics",
    ]
    taus = ["0.500\n0.25–0.75", "-0.125\n-0.50 – 0.25", "100.0", "93.8"]
    assert tables["shades, test split, seed 0"] == [
        ["Methods", "1-img↓", "2-imgs↑", "4-imgs↑", "parsed", "valid"],
        ["grey-eyes", "1.50\n1.25–1.75", *taus],
        ["+ SFT", "1.25\n1.00–1.50", *taus],
        ["+ Regression", "1.00\n0.75–1.25", *taus],
        ["+ RARL", "0.75\n0.50–1.00", *taus],
    ]
    assert tables["By light"] == [
        ["light", "images", "grey-eyes", "+ SFT", "+ Regression", "+ RARL"],
        ["lamp", "8", *["1.00\n0.50–1.50"] * 4],
        ["sun", "8", *["2.00\n1.50–2.50"] * 4],
    ]
    trained = tables["How the arms were trained"]
    assert trained[0] == ["Arm", "time", "on", "step kept", "finished (UTC)", "with"]
    assert [row[0] for row in trained[1:]] == ["+ SFT", "+ Regression", "+ RARL"]
    assert trained[1][1:5] == ["1 min 23 s", "cpu", "40", "2030-01-02 03:04"]
    every = {row[0]: row[1] for row in tables["All metrics"][1:]}
    assert len(every) == 20
    assert every["within_one"] == "87.5\n75.0–100.0"
    assert every["agreement4"] == "0.750\n0.50–1.00"
    assert every["position_bias4"] == "0.250\n0.00–0.50"


SVGS = """
[...document.querySelectorAll(".plot svg")].map(svg => {
  const box = svg.getBoundingClientRect(), inks = [...svg.querySelectorAll("path, use, text")];
  return {width: box.width, height: box.height, marks: inks.length,
          drawn: inks.filter(ink => { const b = ink.getBBox(); return b.width + b.height > 0 }).length,
          said: svg.closest("[role=img]").getAttribute("aria-label")}
})"""


def test_every_plot_is_drawn_and_described(at_desk):
    plots = at_desk.js(SVGS)
    # Tau and position bias; how sure arms are; their values; validation of mae, tau2, tau4; nine curves.
    assert len(plots) == 2 + 1 + 4 + 3 + 9
    for plot in plots:
        assert plot["width"] > 100, plot
        assert plot["height"] > 100, plot
        assert plot["drawn"] > 10, plot
    assert len({plot["said"] for plot in plots}) == len(plots)


def test_no_two_elements_have_one_id_and_every_reference_has_an_element(at_desk):
    ids = at_desk.js("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(ids) > 100
    assert sorted(ids) == sorted(set(ids))
    html = at_desk.js("document.documentElement.outerHTML")
    used = set(re.findall(r'href="#([^"]+)"', html)) | set(
        re.findall(r"url\((?:&quot;|\")?#([^)\"&]+)", html)
    )
    assert used
    assert used <= set(ids)


def test_an_arm_has_one_colour_in_the_legend_and_in_every_plot(at_desk):
    legend = at_desk.js(
        """[...document.querySelector(".legend").children].map(item =>
             [item.innerText.trim(), getComputedStyle(item.firstElementChild).backgroundColor])"""
    )
    assert [name for name, _ in legend] == ["grey-eyes", "+ SFT", "+ Regression", "+ RARL"]
    assert len({colour for _, colour in legend}) == 4
    points = at_desk.js(
        """[...document.querySelectorAll("#predictions .small svg")].map(svg =>
             [...svg.querySelectorAll("[id*=PathCollection] :is(path, use)")].map(
                 point => getComputedStyle(point).fill))"""
    )
    for (_, colour), fills in zip(legend, points, strict=True):
        assert set(fills) == {colour}


def test_every_image_is_decoded(at_desk):
    images = at_desk.js("[...document.images].map(image => [image.complete, image.naturalWidth, image.alt])")
    # Best, median and worst of four, of two arms each; three groups of two.
    assert len(images) == 3 * 2 * 4 + 3 * 2
    for complete, width, alt in images:
        assert complete
        assert width in (24, 128)
        assert alt.startswith("Picture ")


def test_it_asks_for_nothing_and_says_nothing(at_desk, report):
    assert at_desk.said == []
    assert [url for url in at_desk.requests if not url.startswith("data:")] == [report.as_uri()]


# ── how it fits ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def wide_report(tmp_path_factory):
    """Ten arms, so that the tables are as wide as they get."""
    return write_report(make_run(tmp_path_factory.mktemp("runs") / "ten", list(PAPER_ARMS)))


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_stands_out_of_the_window(opening, wide_report, width):
    opened = opening(wide_report, width=width)
    assert opened.js("document.documentElement.scrollWidth") <= width
    outside = """[...document.querySelectorAll("main *")].filter(element =>
      !element.closest("svg") && element.getBoundingClientRect().right > innerWidth + 1
      && !element.closest(".wide")).map(element => element.outerHTML.slice(0, 100))"""
    assert opened.js(outside) == []
    # What is wider than the window can be moved, with a finger and with the keyboard.
    for box in opened.page.query_selector_all(".wide"):
        assert box.evaluate("box => getComputedStyle(box).overflowX") == "auto"
        assert box.evaluate("box => box.tabIndex") == 0


def test_texts_of_plots_are_legible_on_a_phone(opening, wide_report):
    opened = opening(wide_report, width=PHONE)
    heights = opened.js(
        """[...document.querySelectorAll(".plot svg text")].map(text => {
             const {c, d} = text.getScreenCTM();
             return Math.hypot(c, d) * parseFloat(getComputedStyle(text).fontSize) })"""
    )
    assert len(heights) > 100
    assert min(heights) >= 8.5  # pixels


# ── colours ──────────────────────────────────────────────────────────────────────────────────────────────

# The colour of every text and what it stands on: the nearest background that is not transparent.
TEXTS = """
(() => {
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = {};
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const ink = element.ownerSVGElement ? style.fill : style.color;
    found[`${ink} on ${ground(element)}`] = `${element.tagName}: ${element.textContent.trim().slice(0, 40)}`;
  }
  return found;
})()"""
LEGEND = """[...document.querySelector(".legend").querySelectorAll("span")].map(
  span => getComputedStyle(span).backgroundColor)"""
GROUND = "getComputedStyle(document.body).backgroundColor"


def rgb(text):
    return [int(number) for number in re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", text).groups()]


def luminance(text):
    """The relative luminance of WCAG 2.2, of an opaque colour."""
    parts = [number / 255 for number in rgb(text)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_wcag():
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(118, 118, 118)", "rgb(255, 255, 255)") == pytest.approx(4.54, abs=0.005)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_arms_stand_out_from_what_is_behind_them(opening, wide_report, scheme):
    opened = opening(wide_report, scheme=scheme)
    texts = opened.js(TEXTS)
    assert len(texts) >= 4
    for colours, where in texts.items():
        assert contrast(*colours.split(" on ")) >= 4.5, (colours, where)
    arms = opened.js(LEGEND)
    assert len(set(arms)) == 13
    for colour in arms:
        assert contrast(colour, opened.js(GROUND)) >= 3, colour


def test_the_dark_scheme_changes_the_paper_and_the_ink_of_the_plots(opening, report):
    light, dark = opening(report, scheme="light"), opening(report, scheme="dark")
    assert luminance(light.js(GROUND)) > 0.9
    assert luminance(dark.js(GROUND)) < 0.05
    ink = "getComputedStyle(document.querySelector('.plot svg text')).fill"
    line = "getComputedStyle(document.querySelector('#curves svg [id*=line2d] path')).stroke"
    assert luminance(light.js(ink)) < 0.2 < luminance(dark.js(ink))
    assert light.js(line) != dark.js(line)
    assert luminance(dark.js(LEGEND)[-1]) > luminance(light.js(LEGEND)[-1])


# ── on paper ─────────────────────────────────────────────────────────────────────────────────────────────


def test_it_prints(opening, wide_report):
    pdf = opening(wide_report).page.pdf(format="A4")
    assert pdf.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 3


def test_on_paper_everything_is_open_and_nothing_is_cut(opening, wide_report):
    opened = opening(wide_report, width=PAPER, scheme="dark")
    seen = """[...document.querySelectorAll("details > pre")].map(pre =>
      [pre.checkVisibility({contentVisibilityAuto: true}), pre.getBoundingClientRect().height])"""
    assert not all(visible for visible, _ in opened.js(seen))  # on a screen, replies open on a click
    opened.page.emulate_media(media="print")
    opened.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    for visible, height in opened.js(seen):
        assert visible
        assert height > 10
    cut = """[...document.querySelectorAll("table, svg, pre, figure")]
      .filter(element => element.getBoundingClientRect().right > innerWidth + 1)
      .map(element => element.outerHTML.slice(0, 200))"""
    assert opened.js(cut) == []
    # An interval is no larger than its number, and is not broken in two.
    sizes = """[...document.querySelectorAll("td small")].map(small => {
      const style = getComputedStyle(small), size = parseFloat(style.fontSize);
      const ofValue = parseFloat(getComputedStyle(small.parentElement).fontSize);
      return [size, ofValue, small.getBoundingClientRect().height] })"""
    for size, of_value, height in opened.js(sizes):
        assert size < of_value
        assert height < 2 * size
    # Ink on white paper, whatever the screen's scheme is.
    assert opened.js(GROUND) == "rgb(255, 255, 255)"
    for colours, where in opened.js(TEXTS).items():
        assert contrast(*colours.split(" on ")) >= 4.5, (colours, where)


# ── texts of strangers ───────────────────────────────────────────────────────────────────────────────────

SCRIPT = "<script>window.ran = 1; alert(1)</script>"
IMAGE = "<img src=x onerror=alert(2)>"
LONG = "W" * 3000
TURNED = "\u202eevil\u202c\u2067\u05d0"  # set from right to left
REPLY = f"</pre></details>{SCRIPT}{IMAGE}\x00{TURNED}{LONG}&lt;b&gt;"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Every text that a stranger may have written is one that would do harm in a page."""
    run = make_run(
        tmp_path_factory.mktemp("runs") / "hostile",
        model=f"models/{IMAGE}",
        task=SHADES.to_dict() | {"rule": f"grey {SCRIPT}{LONG}"[:LONGEST_RULE]},
    )
    metrics = load_metrics(run / "metrics.json")
    found = {"mae": entry(1, 0.5, 1.5)}
    metrics["arms"][f'x"><{IMAGE}'] = numbers(1)  # the name of the folder that was evaluated
    for columns in metrics["subgroups"].values():
        columns[f"light{SCRIPT}"] = {f"{SCRIPT}": found, LONG: found, TURNED: found}
    write_metrics(run, metrics)
    for arm in metrics["arms"]:
        lines = [
            replace(line, reply=REPLY, ids=[f"{SCRIPT}{name}" for name in line.ids])
            for line in predictions(arm)
        ]
        write_predictions(run, arm, lines)
    write_lines(run / "rarl/groups.jsonl", [group(5, REPLY, LONG, rule=SCRIPT, ids=[SCRIPT, '"onload="'])])
    return write_report(run)


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_texts_of_strangers_are_shown_and_run_nothing(opening, hostile, width):
    opened = opening(hostile, width=width)
    assert opened.said == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [hostile.as_uri()]
    assert opened.js("window.ran") is None
    assert opened.js("document.scripts.length") == 0
    assert opened.js("[...document.images].every(image => image.src.startsWith('data:'))")
    handlers = (
        "[...document.querySelectorAll('*')].filter(e => [...e.attributes].some(a => /^on/.test(a.name)))"
    )
    assert opened.js(f"{handlers}.length") == 0
    pages = opened.js("document.body.textContent")
    for text in (SCRIPT, IMAGE, "</pre></details>", "&lt;b&gt;", TURNED, LONG):
        assert text in pages, text
    assert opened.js("document.documentElement.scrollWidth") <= width
    assert opened.js("document.querySelectorAll('main > section').length") == 7
    assert opened.js("document.querySelector('h1').textContent") == f"shades: {IMAGE}"
