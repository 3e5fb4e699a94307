"""The page in a real browser: drawn without an error and without a network, on a laptop, a phone, in the dark and on paper."""

from __future__ import annotations

import base64
import json
import shutil
import time

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (kbit[dev])")

pytestmark = pytest.mark.browser

WIDE, PHONE = (1440, 900), (390, 844)
SECONDS = 60  # until a page must be drawn, on a busy machine
QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium that logs its console and its requests."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("no chromium with its chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (*QUIET, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield window
    window.quit()


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    return report.write(tmp_path_factory.mktemp("page")).as_uri()


def look_at(browser, page, size=WIDE, *, dark=False):
    """Open the page on a screen of this size and wait until it is drawn."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [theme]})
    browser.get(page)
    drawn(browser)


def drawn(browser):
    """Wait until every figure is drawn."""
    end = time.monotonic() + SECONDS
    while not browser.execute_script("return document.documentElement.dataset.drawn"):
        assert time.monotonic() < end, browser.get_log("browser")
        time.sleep(0.05)


def complaints(browser):
    """What the console says, warnings too."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def requests(browser):
    """Addresses that pages in files asked for since the last look at the log, without the pages themselves."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    urls = [one["request"]["url"] for one in asked if one["documentURL"].startswith("file:")]
    assert any(url.endswith("index.html") for url in urls)  # the log works
    return [url for url in urls if not url.startswith(("data:", "blob:")) and not url.endswith("index.html")]


def traces(browser):
    """For each figure its width, how many traces it has drawn, and its section."""
    return browser.execute_script("""
        return [...document.querySelectorAll('.canvas')].map((place) => ({
            section: place.dataset.slug,
            width: place.querySelector('.main-svg')?.getBoundingClientRect().width ?? 0,
            traces: place.querySelectorAll('.main-svg .scatterlayer .trace').length,
        }))""")


def overflow(browser):
    """Elements that reach beyond the right edge of the screen and cannot be scrolled by themselves."""
    return browser.execute_script("""
        const inFrame = (element) => element.closest('.table-frame, .frame, .hidden') !== null;
        return [...document.querySelectorAll('body *')]
            .filter((element) => element.getBoundingClientRect().right > window.innerWidth + 1)
            .filter((element) => !inFrame(element) && !element.closest('svg'))
            .map((element) => element.tagName + '.' + element.className);""")


def test_every_figure_is_drawn_without_a_complaint_and_without_a_network(browser, page):
    look_at(browser, page)
    figures = traces(browser)
    assert {figure["section"] for figure in figures} == {"curve", "optimum", "types", "blocks", "front", "law", "tokens"}
    assert all(figure["traces"] > 0 and figure["width"] > 150 for figure in figures), figures
    assert complaints(browser) == []
    assert requests(browser) == []
    offered = browser.execute_script("return [...document.querySelectorAll('.modebar-btn')].map((b) => b.dataset.title)")
    assert set(offered) == {"Download plot as a PNG", "Zoom", "Pan", "Reset axes"}  # and not: share with others


def test_the_table_sorts_filters_and_opens_a_run(browser, page):
    look_at(browser, page)

    def column(name):
        return browser.execute_script(
            """const heads = [...document.querySelectorAll('.runs th')].map((cell) => cell.textContent);
            const rows = [...document.querySelectorAll('.runs tbody tr')];
            return rows.map((row) => row.cells[heads.indexOf(arguments[0])].textContent);""",
            name,
        )

    def press(text):
        browser.execute_script(
            "[...document.querySelectorAll('.runs th button')].find((b) => b.textContent === arguments[0]).click()", text
        )

    press("bits per byte")
    up = [float(value) for value in column("bits per byte")]
    press("bits per byte")
    down = [float(value) for value in column("bits per byte")]
    assert up == sorted(up)
    assert down == sorted(down, reverse=True)
    assert down[0] > up[-1]
    search = browser.find_element("css selector", "input[type=search]")
    search.send_keys("nf4 754k")
    assert set(column("format")) == {"nf4-b64"}
    assert set(column("model")) == {"prose-754k"}
    browser.execute_script("document.querySelector('.runs tbody button').click()")
    facts = browser.execute_script("return document.querySelector('.facts').textContent")
    assert "perplexity per token" in facts
    assert "simulated" in facts
    assert complaints(browser) == []


def test_the_reader_chooses_axis_embeddings_and_format(browser, page):
    look_at(browser, page)
    title = "return document.querySelector('#curve .canvas')._fullLayout.xaxis.title.text"
    assert browser.execute_script(title) == "total bits of the model"
    browser.execute_script("document.querySelector('input[name=axis][value=linear]').click()")
    drawn(browser)
    assert browser.execute_script(title) == "bits of the linear layers"
    browser.execute_script("document.querySelector('input[name=embeddings][value=bf16]').click()")
    drawn(browser)
    assert browser.execute_script("return document.querySelectorAll('#curve select option').length") == 0  # one series alone
    browser.execute_script("document.querySelector('input[name=embeddings][value=int8-row]').click()")
    drawn(browser)
    count = "return document.querySelector('#curve .canvas').data.length"
    before = browser.execute_script(count)
    browser.execute_script("""const select = document.querySelector('#curve select');
        select.value = 'nf-b64'; select.dispatchEvent(new Event('change'))""")
    assert browser.execute_script(count) < before
    button = "document.querySelector('#curve .tools button')"
    browser.execute_script(f"{button}.click()")
    assert browser.execute_script(f"return {button}.getAttribute('aria-pressed')") == "false"
    assert complaints(browser) == []


def test_nothing_overflows_on_a_phone(browser, page):
    look_at(browser, page, PHONE)
    assert browser.execute_script("return document.documentElement.scrollWidth") == PHONE[0]
    assert overflow(browser) == []
    assert all(250 < figure["width"] <= PHONE[0] for figure in traces(browser))
    assert complaints(browser) == []


def test_the_dark_theme_reaches_the_figures_and_changes_with_the_reader(browser, page):
    colours = """const point = document.querySelector('#curve .scatterlayer .point');
        return [getComputedStyle(document.body).backgroundColor, getComputedStyle(point).fill]"""
    look_at(browser, page, dark=True)
    paper, point = browser.execute_script(colours)
    assert max(map(int, paper[4:-1].split(","))) < 60
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "light"}]})
    time.sleep(0.2)
    drawn(browser)
    light_paper, light_point = browser.execute_script(colours)
    assert min(map(int, light_paper[4:-1].split(","))) > 240
    assert light_point != point
    assert complaints(browser) == []


def test_it_prints_on_white_within_the_paper(browser, page):
    look_at(browser, page, dark=True)
    browser.execute_script("""addEventListener('beforeprint', () => {
        window.widths = [...document.querySelectorAll('.canvas .main-svg')].map((svg) => +svg.getAttribute('width'));
        window.paper = getComputedStyle(document.documentElement).getPropertyValue('--paper').trim();
    })""")
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert pdf.startswith(b"%PDF")
    widths, paper = browser.execute_script("return [window.widths, window.paper]")
    assert paper == "#fdfdfb"
    assert max(widths) <= 690
    drawn(browser)
    assert complaints(browser) == []


def test_hostile_names_run_nothing(browser, hostile, tmp_path):
    look_at(browser, hostile.write(tmp_path).as_uri())
    shown = browser.execute_script("return document.querySelector('.runs').textContent + document.title")
    assert "</script><script>alert('model')</script>" in shown
    assert browser.execute_script("return document.querySelectorAll('script').length") == 3
    names = browser.execute_script("return document.querySelector('#front .canvas').data.at(-1).text.join()")
    assert "<script" not in names
    assert "&lt;script&gt;" in names
    assert complaints(browser) == []
    assert requests(browser) == []
