"""report.html in a real browser, without a display: Chromium."""

import json
import shutil

import pytest
import report_recipe
from sclite_scores import needs_sclite

from espnet_mtkd.report.page import write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
pytestmark = [
    needs_sclite,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium: apt-get install chromium"
    ),
]
DESKTOP = {"width": 1200, "height": 900}
PHONE = {"width": 360, "height": 780}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "egs2/words/mtkd1"
    rows = report_recipe.build(folder)
    report_recipe.write_audio(folder)
    return write_page(folder / "exp", rows, pairs=report_recipe.PAIRS)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: pip install playwright"
    )
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, site):
    """Opens the page; at the end there was no error and no request but for the page."""
    contexts, complaints, requests = [], [], []

    def visit(viewport=DESKTOP, color_scheme="light"):
        context = browser.new_context(viewport=viewport, color_scheme=color_scheme)
        context.set_offline(True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda x: complaints.append(x.text))
        page.on("pageerror", lambda x: complaints.append(str(x)))
        page.on("request", lambda x: requests.append(x.url))
        page.goto(site.as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []
    assert {x for x in requests if not x.startswith("data:")} == {site.as_uri()}


def column(page, number: int) -> list[str]:
    cells = page.locator(f"#table tbody tr > :nth-child({number})")
    return cells.all_inner_texts()


def test_a_click_sorts_a_column_and_another_turns_it_round(visit):
    page = visit()
    before = column(page, 1)
    table = page.locator("#table")
    button = table.get_by_role("button", name="WER / %", exact=True)
    head = page.locator("#table thead th:nth-child(3)")
    assert head.get_attribute("aria-sort") is None
    button.click()
    rates = [float(x) for x in column(page, 3)]
    assert rates == sorted(rates) and head.get_attribute("aria-sort") == "ascending"
    button.focus()
    page.keyboard.press("Enter")  # by keyboard
    assert [float(x) for x in column(page, 3)] == sorted(rates, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    # What has no number stands last, whichever way.
    for _ in range(2):
        table.get_by_role("button", name="WERR / %", exact=True).click()
        assert column(page, 5)[-1] == "" and column(page, 5)[0] != ""
        assert {*column(page, 1)[-2:]} == {"from scratch", "streaming"}
    assert page.locator("#table thead th[aria-sort]").count() == 1
    assert sorted(column(page, 1)) == sorted(before)


def errors_of(site, row: int) -> list[int]:
    text = site.read_text()
    blob = text.split('id="data">')[1].split("</script>")[0]
    return {x[0]: x[2][row][2] for x in json.loads(blob)["sets"][0]["utterances"]}


def test_picking_two_rows_changes_what_is_compared(visit, site):
    page = visit()
    form, items = page.locator("#pick-utterances"), page.locator("#utterance-list li")
    form.get_by_label("Row A").select_option(label="from scratch")
    form.get_by_label("Row B").select_option(label="two teachers")
    form.get_by_label("Show").select_option(label="all")
    first, second = errors_of(site, 0), errors_of(site, 1)
    names = page.locator("#utterance-list .utterance-head > .quiet").all_inner_texts()
    changes = [abs(first[x] - second[x]) for x in names]
    assert sorted(names) == sorted(first) and changes == sorted(changes, reverse=True)
    assert f"{first[names[0]]} → {second[names[0]]} error" in items.first.inner_text()
    better = sum(second[x] < first[x] for x in first)
    assert f"fewer errors in {better}" in page.locator("#utterance-count").inner_text()
    form.get_by_label("Show").select_option(label="better in B")
    assert items.count() == better
    form.get_by_label("Row B").select_option(label="from scratch")  # the same row
    assert items.count() == 4 and items.first.locator("dt").count() == 2


def test_differences_are_marked_as_they_are(visit):
    """Of REFERENCE[1], PLEASE PRESS ONE, a row heard PRESS TWO TWO."""
    page = visit()
    form = page.locator("#pick-utterances")
    form.get_by_label("Row A").select_option(label="from scratch")
    form.get_by_label("Show").select_option(label="all")
    item = page.locator("#utterance-list li", has_text="spk-utt1")
    heard = item.locator("dd").nth(1)
    wrong, extra, missing = (
        heard.locator(x).all_inner_texts() for x in ("mark", "ins", "del")
    )
    assert len(wrong) + len(extra) + len(missing) == 3
    words = heard.inner_text().split()
    assert [x for x in words if x not in missing] == ["PRESS", "TWO", "TWO"]


def test_what_was_heard_is_never_run(visit):
    page = visit()
    page.locator("#pick-utterances").get_by_label("Show").select_option(label="all")
    for row in ("without hubert", "two teachers"):
        page.locator("#pick-utterances").get_by_label("Row B").select_option(label=row)
    page.locator("#pick-utterances").get_by_label("Row A").select_option(
        label="without hubert"
    )
    assert report_recipe.EVIL in page.locator("#utterance-list").inner_text()
    assert page.title() == "words: results"


def test_audio_plays(visit):
    page = visit()
    page.locator("#pick-utterances").get_by_label("Show").select_option(label="all")
    assert page.locator("audio").count() == 4
    seconds = page.locator("audio").first.evaluate(
        """audio => new Promise((good, bad) => {
            audio.onloadedmetadata = () => good(audio.duration);
            audio.onerror = () => bad(audio.error.message);
            audio.preload = "auto";
            audio.load();
        })"""
    )
    assert seconds == pytest.approx(0.5, abs=0.05)


def test_configs_of_two_rows_are_compared(visit):
    page = visit()
    form = page.locator("#pick-configs")
    form.get_by_label("Row A").select_option(label="from scratch")
    form.get_by_label("Row B").select_option(label="two teachers")
    lines = page.locator("#config-differences tbody tr").all_inner_texts()
    assert any(
        x.split() == ["stage", "2:", "optim_conf.lr", "0.1", "0.001"] for x in lines
    )
    form.get_by_label("Row A").select_option(label="two teachers")
    assert page.locator("#config-differences tbody tr").count() == 0
    assert "0 of" in page.locator("#config-count").inner_text()
    # What a training has that only one row had is not a hundred differences.
    form.get_by_label("Row A").select_option(label="from scratch")
    form.get_by_label("Row B").select_option(label="two teachers")
    lines = page.locator("#config-differences tbody tr").all_inner_texts()
    assert lines and all(x.startswith("stage 2: ") for x in lines)
    count = page.locator("#config-count").inner_text()
    assert "Only B has stage 1: see below." in count and "Only A" not in count


def test_a_phone_needs_no_scrolling_sideways(visit):
    page = visit(viewport=PHONE)
    for details in page.locator("details").all():
        details.evaluate("x => { x.open = true; }")
    widths = "[document.documentElement.scrollWidth, document.body.scrollWidth]"
    assert page.evaluate(widths) == [360, 360]
    shown = page.locator(".chart svg").evaluate_all(
        "all => all.map(x => [x.classList.contains('narrow'), x.clientWidth])"
    )
    assert all((width > 0) == is_narrow for is_narrow, width in shown)
    # A table that is wider scrolls by itself.
    table = page.locator("#table .scroll")
    assert table.evaluate("x => x.scrollWidth > x.clientWidth")


def test_dark_has_colours_of_its_own_in_the_charts_too(visit):
    find = """() => {
        const style = (x, name) => getComputedStyle(x)[name];
        const text = document.querySelector('.chart svg.wide text');
        const mark = document.querySelector('.chart svg.wide title').parentElement;
        const dot = mark.querySelector('use, path') || mark;
        return [style(document.body, 'backgroundColor'), style(document.body, 'color'),
                style(text, 'fill'), style(dot, 'stroke')];
    }"""
    light, dark = (visit(color_scheme=x).evaluate(find) for x in ("light", "dark"))
    assert all(a != b for a, b in zip(light, dark, strict=True))

    def brightness(color: str) -> float:
        return sum(map(float, color.partition("(")[2].rstrip(")").split(",")[:3]))

    assert brightness(light[0]) > brightness(light[1])
    assert brightness(dark[0]) < brightness(dark[1])


def test_text_is_readable_on_its_background(visit):
    """Contrast of WCAG 2: at least 4.5 for every text of the page, light and dark."""
    measure = """() => {
        const canvas = new OffscreenCanvas(1, 1)
            .getContext('2d', {willReadFrequently: true});
        const rgb = color => {
            canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color;
            canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data];
        };
        const back = x => {
            for (; x; x = x.parentElement) {
                const color = getComputedStyle(x).backgroundColor;
                if (rgb(color)[3] === 255) return rgb(color);
            }
        };
        const light = c => {
            const f = c.slice(0, 3).map(v => v / 255)
                .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2];
        };
        const bad = [];
        for (const x of document.querySelectorAll('body *')) {
            const own = [...x.childNodes].some(n => n.nodeType === 3 && n.data.trim());
            if (!own || !x.getClientRects().length) continue;
            const property = x.closest('svg') ? 'fill' : 'color';
            const pair = [rgb(getComputedStyle(x)[property]), back(x)].map(light);
            const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
            if (ratio < 4.5) bad.push([x.tagName, x.textContent, ratio]);
        }
        return bad;
    }"""
    for scheme in ("light", "dark"):
        assert visit(color_scheme=scheme).evaluate(measure) == []


def test_more_utterances_come_when_asked(browser, tmp_path):
    """A set larger than what is shown at once."""
    from sclite_scores import HYPOTHESES, REFERENCE, score

    score(tmp_path / "exp/asr_a", HYPOTHESES["taught"] * 6, references=REFERENCE * 6)
    path = write_page(tmp_path / "exp", [("e: a", tmp_path / "exp/asr_a")])
    page = browser.new_page()
    page.goto(path.as_uri())
    items, more = page.locator("#utterance-list li"), page.locator("#more-utterances")
    assert items.count() == 10
    more.click()
    more.click()
    assert items.count() == 24 and more.is_hidden()
    page.close()


def test_the_page_of_one_row_lists_what_it_heard(browser, tmp_path):
    """As the page of a ladder is that has just begun."""
    folder = tmp_path / "egs2/words/mtkd1"
    rows = report_recipe.build(folder)
    report_recipe.write_audio(folder)
    path = write_page(folder / "exp", rows[:1])
    page = browser.new_page()
    page.goto(path.as_uri())
    items = page.locator("#utterance-list li")
    assert items.count() == 4 and page.locator("audio").count() == 4
    errors = [int(x.split()[0]) for x in page.locator(".change").all_inner_texts()]
    assert errors == sorted(errors, reverse=True) and errors[0] > 0
    form = page.locator("#pick-utterances")
    assert form.get_by_label("Row A").is_visible()
    assert not form.get_by_label("Row B").is_visible()
    assert not page.locator("#configs").is_visible()
    assert page.locator("nav a", has_text="Configs").count() == 0
    page.close()
