"""The pages in a real browser: nothing breaks, nothing is fetched, points say what front.csv says, all fits a phone."""

import json
import os
import shutil

import pandas as pd
import pytest

from cosearch.report.writing import compare

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1200, "height": 900}
QUIET = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    """Chromium as it is installed; $COSEARCH_BROWSER names another one."""
    named = os.environ.get("COSEARCH_BROWSER")
    found = named or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no browser is installed: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[test]'")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=list(QUIET))
        yield opened
        opened.close()


@pytest.fixture
def visit(browser):
    """Open a file; afterwards nothing may have been written on the console or asked of a network."""
    contexts, complaints, requests = [], [], []

    def open_page(file, viewport, **options):
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.resolve().as_uri())
        page.wait_for_selector("figure.chart .plot svg")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


def overflow(page) -> float:
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def told(page) -> dict[str, str]:
    """What the box beside the pointer says: term -> text."""
    rows = page.locator(".tip dl > div")
    pairs = [rows.nth(i) for i in range(rows.count())]
    return {row.locator("dt").inner_text(): row.locator("dd").inner_text() for row in pairs}


def test_every_chart_is_drawn_and_nothing_is_wider_than_the_screen(finished, visit):
    for viewport in (DESK, PHONE):
        page = visit(finished / "report.html", viewport)
        charts = page.locator("figure.chart")
        assert charts.count() >= 6
        for i in range(charts.count()):
            drawn = charts.nth(i).locator(".plot > svg")
            assert drawn.locator("path, rect").count() > 5
            assert len(drawn.get_attribute("aria-label")) > 20
            assert "NaN" not in drawn.evaluate("e => e.outerHTML")
            assert len(charts.nth(i).locator("figcaption strong").inner_text()) > 5
        assert page.locator("svg.picture").bounding_box()["width"] > 300
        assert overflow(page) <= 0
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert overflow(page) <= 0


def test_pointing_at_the_front_tells_what_front_csv_says(finished, visit):
    front = pd.read_csv(finished / "front.csv")
    page = visit(finished / "report.html", DESK)
    charted = (
        "f => JSON.parse(f.querySelector('script').textContent).series.find(s => s.name === 'Pareto front').points"
    )
    assert len(page.locator("#front-chart").evaluate(charted)) == len(front)
    for i, row in enumerate(front.to_dict("records")):
        point = page.locator(f"#front-chart circle.hit[data-point='{i}']").first
        point.dispatch_event("pointerenter")
        said = told(page)
        for label, name in (("accuracy (fraction)", "accuracy"), ("latency (ms)", "latency_ms"), ("LUTs", "lut")):
            assert float(said[label].replace(",", "")) == pytest.approx(row[name], rel=1e-5)
        assert said["accelerator"] == row["accelerator"]
        assert said["network"] == ", ".join(f"{n} {c}" for n, c in json.loads(row["arch"]).items())
        point.dispatch_event("pointerleave")
        assert page.locator(".tip").is_hidden()


ON_TOP = """all => all.map((e, i) => {
  const box = e.getBoundingClientRect();
  return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2) === e ? i : -1;
}).filter(i => i >= 0)"""
"""The places among elements of those that the pointer reaches in their centres."""


def test_a_real_pointer_and_the_keyboard_reach_a_point(finished, visit):
    page = visit(finished / "report.html", DESK)
    points = page.locator("#front-chart circle.hit[data-point]")
    points.last.scroll_into_view_if_needed()
    reached = points.evaluate_all(ON_TOP)  # a design of the comparison may lie on a point of the front
    assert reached
    last = points.nth(reached[-1])
    last.hover()
    assert page.locator(".tip").is_visible()
    page.keyboard.press("Escape")
    assert page.locator(".tip").is_hidden()
    last.focus()
    assert page.locator(".tip").is_visible()


def test_axes_can_be_chosen(finished, visit):
    front = pd.read_csv(finished / "front.csv")
    page = visit(finished / "report.html", DESK)
    for column in ("energy_mj", "lut"):
        page.select_option("#front-chart select[data-axis='x']", column)
        places = page.locator("#front-chart circle.hit[data-point]").evaluate_all(
            "all => all.map(e => [Number(e.dataset.point), Number(e.getAttribute('cx'))])"
        )
        across = dict(places)
        order = sorted(range(len(front)), key=lambda i: front[column][i])
        positions = [across[i] for i in order]
        assert positions == sorted(positions)
    assert page.locator("#front-chart path.limit").count() == 0
    page.select_option("#front-chart select[data-axis='x']", "latency_ms")
    assert page.locator("#front-chart path.limit").count() == 1


def test_a_class_named_like_a_script_does_not_run(finished, visit):
    page = visit(finished / "report.html", DESK)
    assert page.title().startswith("cosearch")


def test_dark_screens_and_paper(finished, visit):
    background = "getComputedStyle(document.body).backgroundColor"
    light = visit(finished / "report.html", DESK)
    dark = visit(finished / "report.html", DESK, color_scheme="dark")
    assert light.evaluate(background) == "rgb(255, 255, 255)"
    assert dark.evaluate(background) != "rgb(255, 255, 255)"
    dark.emulate_media(media="print", color_scheme="dark")
    assert dark.evaluate(background) == "rgb(255, 255, 255)"
    assert dark.locator("nav").is_hidden()
    assert len(dark.pdf(format="A4")) > 20_000


def test_other_pages_are_sound_too(measured, unfinished, seeds, tmp_path, visit):
    from cosearch.report.writing import write_report

    several = compare(seeds, tmp_path / "several.html")
    for file in (measured / "report.html", write_report(unfinished, quiet=True), several):
        for viewport in (DESK, PHONE):
            page = visit(file, viewport)
            assert overflow(page) <= 0
            assert "NaN" not in page.evaluate("[...document.querySelectorAll('.plot')].map(e => e.innerHTML).join('')")
