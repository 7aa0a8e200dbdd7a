"""The server as people start it, and its page in a browser: verdicts, errors, keyboard, names for screen readers."""

import contextlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
import small_model
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from processes import descendants
from serving import post_files, served_process
from tiny_sources import video

from tfds_builders.records.decode import encode_png
from trainers.occlusion import CELLS

pytestmark = pytest.mark.long
NAME = "realshard-looked-at"
ANSWER_SECS = 30
START_SECS = 90  # a killed process is replaced within
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# As root, without a network: nothing but the server can be reached, whatever the page or the browser asks for.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
LEAST_CONTRAST = 4.5  # WCAG 2.2, 1.4.3, for text of any size
PNG = small_model.image_bytes("PNG", 60, 90)
_BLOCKS = np.kron(np.random.default_rng(0).integers(0, 2, (15, 22, 3)) * 255, np.ones((4, 4, 1)))
BLOCKS = encode_png(_BLOCKS.astype(np.uint8))  # whose parts matter to the tiny model: 0.008 of P(fake) at most

# (text, contrast to what is behind it) of every element that holds text: WCAG 2.2's relative luminance.
CONTRASTS = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (colour) => {
    const [red, green, blue] = channels(colour).slice(0, 3).map((value) => value / 255)
      .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (channels(colour)[3] !== 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  return [...document.querySelectorAll("body *")]
    .filter((element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .map((element) => {
      const [one, other] = [getComputedStyle(element).color, behind(element)].map(luminance);
      return [element.textContent.trim(), (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05)];
    });
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, subprocess.Popen]]:
    with served_process(NAME, tmp_path_factory.mktemp("page")) as server:
        yield server


@pytest.fixture(scope="module")
def address(server) -> str:
    return server[0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert program, f"this test needs one of {', '.join(BROWSERS)}: .ci/debian-packages installs it"
    expect.set_options(timeout=1000 * ANSWER_SECS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page; at the end of the test, nothing may have been asked of others, or complained of."""
    asked: list[str] = []
    complaints: list[str] = []
    contexts = []

    def visit(**options) -> Page:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(1000 * ANSWER_SECS)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        expect(page.locator("#model")).to_have_text(f"{NAME} version 1 answers.")
        return page

    visit.complaints = complaints
    yield visit
    for context in contexts:
        context.close()
    assert len(asked) >= 5  # the page with its three files, /readyz
    assert {url for url in asked if not url.startswith((f"{address}/", f"blob:{address}/"))} == set()
    assert complaints == []


def upload(page: Page, *files: tuple[str, bytes]) -> Locator:
    """Chooses files and waits for what the server says of each; their items, in the order of the page."""
    before = page.get_by_role("listitem").count()
    chosen = [{"name": name, "mimeType": "", "buffer": data} for name, data in files]
    page.locator("#files").set_input_files(chosen)
    return answered(page, before + len(files))


def answered(page: Page, count: int) -> Locator:
    """The items, once there are `count` and none is waiting."""
    items = page.get_by_role("listitem")
    expect(items).to_have_count(count)
    expect(page.locator("li[aria-busy]")).to_have_count(0)
    return items


def check_contrasts(page: Page) -> None:
    """Every text can be read."""
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) >= 6
    assert {text: contrast for text, contrast in contrasts if contrast < LEAST_CONTRAST} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_picture_gets_its_verdict_its_bar_and_the_model_that_gave_it(visit, address, scheme):
    page = visit(color_scheme=scheme)
    ((expected,),) = (post_files(address, {"a.png": PNG})[1]["results"],)
    item = upload(page, ("a picture.png", PNG))
    expect(item).to_contain_text("a picture.png")
    expect(item.locator(".verdict")).to_have_text(expected["label"])
    expect(item).to_contain_text(f"P(fake) = {expected['p_fake']:.4f}")
    expect(item).to_contain_text(f"{NAME} version 1")
    bar = item.get_by_role("meter", name="P(fake)")
    assert bar.evaluate("bar => [bar.min, bar.value, bar.max]") == pytest.approx([0, expected["p_fake"], 1])
    assert bar.bounding_box()["width"] > 100
    live = page.get_by_role("status")
    expect(live).to_have_text(f"a picture.png: {expected['label']}.")
    expect(live).to_have_attribute("aria-live", "polite")
    expect(item.locator("img")).to_have_js_property("naturalWidth", 90)
    expect(item.locator("img")).to_have_js_property("naturalHeight", 60)
    check_contrasts(page)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")


def test_several_files_keep_their_order_and_a_bad_one_says_why_in_words(visit):
    page = visit()
    names = ("one.png", "text.jpg", "two.tiff")
    items = upload(page, *zip(names, (PNG, b"only words", small_model.image_bytes("TIFF")), strict=True))
    for number, name in enumerate(names):
        expect(items.nth(number).locator(".name")).to_have_text(name)
    expect(items.nth(1).locator(".error")).to_contain_text("the file is text, not an image")
    expect(items.nth(1).locator(".verdict")).to_have_count(0)
    expect(items.nth(2).locator(".verdict")).to_have_count(1)
    expect(items.nth(2)).to_contain_text("This browser cannot show it.")
    expect(page.get_by_role("status")).to_contain_text("text.jpg: no verdict")
    check_contrasts(page)
    assert [text for text in visit.complaints if "422" in text] == visit.complaints  # Chromium's own line
    visit.complaints.clear()


def test_a_video_is_shown_and_judged_by_its_frames(visit):
    page = visit()
    page.locator("#files").set_input_files([{"name": "a.mp4", "mimeType": "video/mp4", "buffer": video(0, 40)}])
    item = answered(page, 1)
    expect(item).to_contain_text("the mean of 16 frames")
    expect(item.get_by_role("button", name="Where?")).to_have_count(0)
    expect(item.locator("video")).to_have_js_property("videoWidth", 48)
    expect(item.locator("video")).to_have_js_property("videoHeight", 32)
    expect(page.get_by_role("status")).to_have_text(re.compile("^a.mp4: (real|fake).$"))


def test_evidence_lies_over_the_picture(visit):
    page = visit()
    item = upload(page, ("a.png", BLOCKS))
    page.get_by_role("button", name="Where?").click()
    heat_map = item.get_by_role("img", name="Orange parts speak for fake")
    heat_map.wait_for()
    assert heat_map.evaluate("canvas => [canvas.width, canvas.height]") == [CELLS, CELLS]
    assert heat_map.bounding_box() == item.locator("img").bounding_box()
    pixels = heat_map.evaluate(f"map => [...map.getContext('2d').getImageData(0, 0, {CELLS}, {CELLS}).data]")
    assert max(pixels[3::4]) == 255  # the strongest part is opaque
    assert len(set(pixels[3::4])) > 3
    expect(page.get_by_role("status")).to_contain_text("Orange parts speak for fake")
    check_contrasts(page)


@pytest.mark.parametrize(
    ("strongest", "is_painted", "says"),
    [
        (0.0421, True, "covering the strongest changes P(fake) by 0.042."),
        (0.0009, False, "Covering any one part changes P(fake) by less than 0.001: no part decides alone."),
    ],
)
def test_evidence_comes_with_its_size_and_none_is_painted_where_there_is_none(visit, strongest, is_painted, says):
    page = visit()
    evidence = [[0.0] * CELLS for _ in range(CELLS)]
    evidence[2][3] = -strongest
    page.route("**/v1/explain", lambda route: route.fulfill(json={"evidence": evidence}))
    item = upload(page, ("a.png", PNG))
    page.get_by_role("button", name="Where?").click()
    expect(item).to_contain_text(says)
    expect(page.get_by_role("status")).to_contain_text(says)
    expect(item.locator("canvas")).to_have_count(int(is_painted))
    check_contrasts(page)


def test_the_keyboard_is_enough(visit):
    page = visit()
    # From here on: asked to listen at the moment of the key, the browser may open its own dialogue first.
    page.on(
        "filechooser", lambda chooser: chooser.set_files([{"name": "a.png", "mimeType": "image/png", "buffer": BLOCKS}])
    )
    page.bring_to_front()  # keys go to the page that has the focus
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    assert page.locator("#drop").evaluate("label => getComputedStyle(label).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    answered(page, 1)
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Where?")).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_role("img", name="Orange parts speak for fake").wait_for()


def test_a_picture_may_be_pasted_or_dropped(visit):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async (bytes) => {
          const blob = new Blob([new Uint8Array(bytes)], { type: "image/png" });
          await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }""",
        list(PNG),
    )
    page.keyboard.press("Control+V")
    expect(answered(page, 1).locator(".verdict")).to_have_count(1)
    dropped = page.evaluate_handle(
        """(bytes) => {
          const dropped = new DataTransfer();
          dropped.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
          return dropped;
        }""",
        list(PNG),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    items = answered(page, 2)
    expect(items.first.locator(".name")).to_have_text("dropped.png")
    assert items.nth(0).locator("meter").get_attribute("value") == items.nth(1).locator("meter").get_attribute("value")


def test_names_for_screen_readers(visit):
    page = visit()
    upload(page, ("a.png", PNG))
    expect(page.get_by_label("Choose pictures or videos")).to_have_id("files")
    expect(page.get_by_role("heading", level=1, name="Real or fake?")).to_be_visible()
    expect(page.get_by_role("list", name="Verdicts").get_by_role("listitem")).to_have_count(1)
    assert page.evaluate("document.documentElement.lang") == "en"


def test_a_server_that_is_gone_is_said_in_words(visit):
    page = visit()
    page.context.set_offline(True)
    expect(upload(page, ("a.png", PNG)).locator(".error")).to_have_text("The server cannot be reached.")
    assert len(visit.complaints) == 1  # Chromium's own line
    visit.complaints.clear()


def test_it_listens_on_loopback_and_outlives_the_process_that_serves_the_page(server):
    """Last but one, since it changes processes."""
    address, process = server
    expected = post_files(address, {"a.png": PNG})
    assert expected[0] == 200
    ours = psutil.Process(process.pid).children(recursive=True)
    pids = {child.pid for child in ours}
    listening = [
        (connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
        for connection in psutil.net_connections("tcp")
        if connection.pid in pids and connection.status == psutil.CONN_LISTEN
    ]
    assert ("127.0.0.1", int(address.rpartition(":")[2])) in listening
    assert {ip for ip, _ in listening} == {"127.0.0.1"}
    (web,) = descendants(psutil.Process(process.pid), ":Web")
    assert web.nice() == psutil.Process(process.pid).nice()
    web.kill()
    web.wait(ANSWER_SECS)
    assert answer_in_time(address, PNG) == expected


def test_it_ends_when_asked_to(server):
    """Last, since it does."""
    process = server[1]
    ours = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert psutil.wait_procs(ours, timeout=30)[1] == []


def answer_in_time(address: str, image: bytes):
    """What is answered once it does not say to come back."""
    deadline = time.monotonic() + START_SECS
    while True:
        with contextlib.suppress(OSError):  # nobody listens yet
            answer = post_files(address, {"a.png": image})
            if answer[0] != 503:
                return answer
        assert time.monotonic() < deadline
        time.sleep(0.2)
