"""The report's page in a real browser: no errors, scrubbing, two samplers side by side, hostile tokens."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from report_folder import HOSTILE_TEXT, MANY, Letters, with_well_formed, write

from hf_unmask.report.writing import write_report

BROWSER = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 180_000  # milliseconds; a busy machine takes long to start a browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH (and none named in $CHROMIUM)"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = write(tmp_path_factory.mktemp("evaluation"), tasks=("sums", "grids"), prompts=8)
    write_report(folder, tokenizer=Letters())
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=BROWSER, args=list(FLAGS), timeout=PATIENCE)
        yield started
        started.close()


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Any]:
    """The page, freshly loaded; anything it prints, throws or asks the network for fails the test."""
    opened = browser.new_page(viewport={"width": 1300, "height": 900}, color_scheme=request.param)
    opened.set_default_timeout(PATIENCE)
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda sent: complaints.append(sent.url) if sent.url.startswith("http") else None)
    opened.goto(address)
    yield opened
    opened.close()
    assert complaints == []


def step(page: Any) -> int:
    return int(page.locator("#step").input_value())


def masks(page: Any, side: str) -> int:
    return page.locator(f"#pane-{side} .cell.mask").count()


def choose(page: Any, side: str, sampler: str, regime: str = "full diffusion") -> None:
    option = page.locator(f'#pane-{side} optgroup[label="{regime}"] option', has_text=sampler).first
    page.locator(f"#pane-{side} select").select_option(option.get_attribute("value"))


def test_keyboard_scrubs(page: Any) -> None:
    choose(page, "a", "threshold:threshold=0.99")
    slider = page.locator("#step")
    slider.focus()
    seen = []
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowLeft", "End"):
        page.keyboard.press(key)
        seen.append((step(page), masks(page, "a"), page.locator("#pane-a .cell.now").count()))
    # 16 positions, two a step
    assert seen == [(0, 16, 0), (1, 14, 2), (2, 12, 2), (1, 14, 2), (8, 0, 2)]


def test_keys_work_from_buttons_too_but_menus_keep_them(page: Any) -> None:
    page.locator("#next").focus()
    before = step(page)
    page.keyboard.press("ArrowRight")
    assert step(page) == before + 1
    page.locator("#pane-a select").focus()
    page.keyboard.press("End")
    assert step(page) <= before + 1


def test_mouse_scrubs(page: Any) -> None:
    choose(page, "a", "threshold:threshold=0.99")
    slider = page.locator("#step")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 10, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, middle, steps=4)
    page.mouse.up()
    assert step(page) == 4 and masks(page, "a") == 8
    page.locator("#next").click()
    assert step(page) == 5
    page.locator("#previous").click()
    assert step(page) == 4


def test_heat_map_is_drawn_and_leads_to_a_step(page: Any) -> None:
    choose(page, "a", "threshold:threshold=0.99")
    heat = page.locator("#pane-a .heat")
    box = heat.bounding_box()
    heat.click(position={"x": 5, "y": box["height"] * 2.5 / 8})
    assert step(page) == 3
    colours = """canvas => new Set(new Uint32Array(
        canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size"""
    assert heat.evaluate(colours) > 4
    assert "16 positions in 8 steps" in heat.get_attribute("aria-label")


def test_two_samplers_side_by_side(page: Any) -> None:
    page.locator("#task").select_option(label="grids")
    page.locator("#prompt").select_option(label="7")
    choose(page, "a", "confidence:k=8")
    choose(page, "b", "confidence:k=4", "blocks of 8")
    left, right = (page.locator(f"#pane-{side}").bounding_box() for side in "ab")
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    page.locator("#step").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert (masks(page, "a"), masks(page, "b")) == (8, 12)
    assert "wrong · 2 NFE" in page.locator("#pane-a .facts").inner_text()
    # a chosen sampler stays when the prompt changes
    page.locator("#prompt").select_option(label="0")
    assert "correct · 4 NFE · 4 steps · blocks of 8" in page.locator("#pane-b .facts").inner_text()
    assert "Step 1 opened 4: 1 “d” 1.000, 2 “e” 0.990" in page.locator("#pane-b .opened").inner_text()
    page.keyboard.press("End")
    page.locator("#step").focus()
    page.keyboard.press("End")
    assert "Finished after step 2" in page.locator("#pane-a .opened").inner_text()


def test_play_runs_to_the_end(page: Any) -> None:
    from playwright.sync_api import expect

    choose(page, "a", "confidence:k=8")
    choose(page, "b", "confidence:k=8")
    page.locator("#step").focus()
    page.keyboard.press("Home")
    page.locator("#play").click()
    assert page.locator("#play").get_attribute("aria-pressed") == "true"
    expect(page.locator("#step")).to_have_value("2", timeout=PATIENCE)
    expect(page.locator("#play")).to_have_text("Play", timeout=PATIENCE)


def test_hostile_tokens_do_nothing(page: Any) -> None:
    page.locator("#step").focus()
    page.keyboard.press("End")
    assert page.locator("#pane-a .cell", has_text=HOSTILE_TEXT).count() == 1
    assert page.locator("img[src='x']").count() == 0
    assert page.title() == "tiny on sums, grids: samplers compared"


def test_tables_sort_by_click(page: Any) -> None:
    table = page.locator("#points table")
    table.get_by_role("button", name="accuracy [95 %]").click()
    first = table.locator("tbody tr").first
    assert "10.0%" in first.inner_text() or "0.0%" in first.inner_text()
    ascending = [float(cell) for cell in cells(table)]
    assert ascending == sorted(ascending)
    table.get_by_role("button", name="accuracy [95 %]").click()
    assert [float(cell) for cell in cells(table)] == ascending[::-1]
    assert table.locator("th[aria-sort=descending]").count() == 1


def cells(table: Any) -> list[str]:
    return table.locator("tbody tr").evaluate_all("rows => rows.map(row => row.cells[3].dataset.value)")


def test_a_point_says_what_it_is(page: Any) -> None:
    chart = page.locator("figure.chart").first
    chart.locator("circle").nth(4).hover(force=True)  # another one lies over it
    said = chart.locator("figcaption").inner_text().split(" · ")
    assert "threshold, full diffusion: 75.0% at 4.0 forward passes, 0.04 s" in said
    assert "learned:policy;speed=0.5, full diffusion: 75.0% at 4.0 forward passes, 0.04 s" in said


def test_the_viewer_opens_with_the_best_and_its_baseline(page: Any) -> None:
    shown = [page.locator(f"#pane-{side} select option:checked").inner_text() for side in "ab"]
    assert shown == ["confidence:k=4", "learned:policy;speed=0.5"]
    assert "blocks of 8" in page.locator("#pane-a .facts").inner_text()


@pytest.mark.parametrize("width", [1280, 390])
def test_thirteen_methods_lose_no_column_and_cut_no_row(browser: Any, tmp_path: Path, width: int) -> None:
    with_well_formed(write(tmp_path, prompts=4, plan=MANY))
    write_report(tmp_path, tokenizer=Letters())
    opened = browser.new_page(viewport={"width": width, "height": 900})
    opened.goto((tmp_path / "report.html").as_uri())
    sizes = opened.locator(".scroll").evaluate_all(
        "all => all.map(box => [box.scrollWidth - box.clientWidth, box.scrollHeight - box.clientHeight])"
    )
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    opened.close()
    assert len(sizes) > 4 and all(high == 0 for _, high in sizes)
    assert width < 1280 or all(wide == 0 for wide, _ in sizes)  # on a telephone tables are moved sideways


def test_narrow_screens_stack_the_panes(page: Any, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 420, "height": 900})
    left, right = (page.locator(f"#pane-{side}").bounding_box() for side in "ab")
    assert left["y"] + left["height"] <= right["y"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    page.locator("#viewer").screenshot(path=tmp_path / "viewer.png")
    assert matplotlib.image.imread(tmp_path / "viewer.png").std() > 0.02


def test_markup_that_got_in_could_not_leave(browser: Any, address: str) -> None:
    """The content policy stands behind the escaping."""
    opened = browser.new_page()
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.goto(address)
    opened.evaluate(
        """document.body.insertAdjacentHTML("beforeend",
        '<base href="https://example.com/"><form id="out" action="https://example.com/"><input name="a"></form>' +
        '<img src="https://example.com/x.png">');
        document.getElementById("out").submit()"""
    )
    opened.wait_for_timeout(300)
    assert opened.url == opened.evaluate("document.baseURI") == address
    opened.close()
    for rule in ("form-action", "base-uri", "img-src"):
        assert rule in " ".join(said)
