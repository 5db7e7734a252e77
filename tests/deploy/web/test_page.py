"""The exported page in headless Chromium, used as people do: its masks are Python's, and it asks nobody else.

Needs the extra "browser" and Chromium (Debian's package chromium).
"""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.deploy.web.conftest import served
from tf_segformer import SegformerImageProcessor, SegmentationPredictor, export_web, load_model
from tf_segformer.imaging.files import open_label_map

playwright = pytest.importorskip("playwright.sync_api", reason='needs the extra "browser"')
pytest.importorskip("onnx", reason='needs the extra "onnx"')
expect = playwright.expect
pytestmark = pytest.mark.slow

PHOTO = Path(__file__).parents[3] / "examples" / "china.jpg"
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
MILLISECONDS = 120_000


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Address of an exported page in a subfolder of a server, and its folder."""
    folder = tmp_path_factory.mktemp("site")
    model = load_model("camvid-b0")
    export_web(model, folder / "page", SegformerImageProcessor.from_pretrained("camvid-b0"))
    with served(folder) as address:
        yield f"{address}/page/", folder / "page"


@pytest.fixture
def open_page(browser, site):
    """Opens the page in a fresh profile; what it asks of other places, and its own errors, fail the test."""
    address, _ = site
    contexts, wrong = [], []

    def opened(viewport=DESK, wait=True, **options):
        context = browser.new_context(viewport=viewport, accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        context.on("request", lambda request: request.url.startswith(address) or wrong.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        page.goto(address)
        if wait:
            expect(page.locator("#file")).to_be_enabled(timeout=MILLISECONDS)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def segment(page, path):
    """Chooses a file and waits for its result."""
    page.set_input_files("#file", path)
    expect(page.locator("#status")).to_contain_text(f"{Path(path).name}: ", timeout=MILLISECONDS)


def downloaded_mask(page):
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the mask").click()
    return download.value


def overlay_pixel(page, x, y):
    """Red, green, blue and alpha of the overlay at a place, in fractions of its sides."""
    script = """([x, y]) => {
        const canvas = document.getElementById("overlay");
        const place = [Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1];
        return [...canvas.getContext("2d").getImageData(...place).data];
    }"""
    return page.evaluate(script, [x, y])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """One image as its owner has it: JPEG with an ICC profile, PNG, enlarged, reduced, and turned by its EXIF tag."""
    folder = tmp_path_factory.mktemp("images")
    shutil.copy(PHOTO, folder / "photo.jpg")
    photo = Image.open(PHOTO)
    photo.save(folder / "photo.png")
    photo.resize((1500, 1001)).save(folder / "large.jpg", quality=92)
    photo.resize((301, 199)).save(folder / "small.webp", lossless=True)
    photo.convert("L").save(folder / "gray.png")
    exif = Image.Exif()
    exif[0x112] = 6
    photo.save(folder / "turned.jpg", exif=exif, quality=95)
    return sorted(folder.iterdir())


def test_masks_are_those_of_python(open_page, site, images, tmp_path):
    predictor = SegmentationPredictor(load_model("camvid-b0"), SegformerImageProcessor.from_pretrained(site[1]))
    page = open_page()
    page.context.set_offline(True)  # what it needs is there
    for image, result in zip(images, predictor(images), strict=True):
        segment(page, image)
        download = downloaded_mask(page)
        assert download.suggested_filename == f"{image.stem}_mask.png"
        download.save_as(tmp_path / "mask.png")
        mask = open_label_map(tmp_path / "mask.png")
        assert mask.shape == result.class_map.shape, image.name
        assert np.mean(mask == result.class_map) >= 0.999, image.name
        name, fraction = next(iter(result.class_fractions.items()))
        expect(page.locator("#legend li").first).to_have_text(f"{name}{100 * fraction:.1f} %")
        assert page.get_by_role("img", name=f"{image.name}: {name} {100 * fraction:.1f} %").is_visible()


def test_classes_are_toggled_and_opacity_is_moved_with_the_keyboard(open_page):
    page = open_page()
    segment(page, PHOTO)
    sky = (0.5, 0.02)
    assert overlay_pixel(page, *sky) == [128, 128, 128, 255]
    page.get_by_role("checkbox", name="Sky").press("Space")
    assert overlay_pixel(page, *sky)[3] == 0 and overlay_pixel(page, 0.99, 0.9)[3] == 255
    page.get_by_role("button", name="Hide all").press("Enter")
    assert overlay_pixel(page, 0.99, 0.9)[3] == 0
    page.get_by_role("button", name="Show all").press("Enter")
    assert overlay_pixel(page, *sky)[3] == 255
    expect(page.locator("#overlay")).to_have_css("opacity", "0.6")
    page.get_by_label("Opacity").press("ArrowRight")
    expect(page.locator("#overlay")).to_have_css("opacity", "0.61")
    expect(page.locator("#opacity-value")).to_have_text("61 %")


def test_an_image_is_dropped(open_page):
    page = open_page()
    encoded = base64.b64encode(PHOTO.read_bytes()).decode()
    transfer = page.evaluate_handle(
        """(encoded) => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], "dropped.jpg", { type: "image/jpeg" }));
            return transfer;
        }""",
        encoded,
    )
    page.dispatch_event("#stage", "dragover", {"dataTransfer": transfer})
    expect(page.locator("#stage")).to_have_class("stage dropping")
    page.dispatch_event("#stage", "drop", {"dataTransfer": transfer})
    expect(page.locator("#status")).to_contain_text("dropped.jpg: Sky", timeout=MILLISECONDS)
    expect(page.locator("#result")).to_be_visible()


def test_the_camera_gives_an_image_and_a_denied_one_is_said_in_words(open_page):
    page = open_page(permissions=["camera"])
    page.get_by_role("button", name="Use the camera").press("Enter")
    expect(page.locator("#take")).to_be_focused(timeout=MILLISECONDS)
    expect(page.locator("#video")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("camera: ", timeout=MILLISECONDS)
    assert downloaded_mask(page).suggested_filename == "camera_mask.png"
    assert page.evaluate("document.getElementById('video').srcObject") is None  # the light goes out
    denied = open_page()
    denied.get_by_role("button", name="Use the camera").click()
    expect(denied.locator("#error")).to_contain_text("The camera was not allowed", timeout=MILLISECONDS)


def test_what_is_no_image_is_said_in_words_and_the_page_goes_on(open_page, tmp_path):
    page = open_page()
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    page.set_input_files("#file", tmp_path / "notes.txt")
    expect(page.get_by_role("alert")).to_have_text(
        "notes.txt is not an image that this browser can open. Choose a JPEG, PNG or WebP file."
    )
    page.set_input_files("#file", tmp_path / "empty.png")
    expect(page.get_by_role("alert")).to_have_text("empty.png is empty.")
    segment(page, PHOTO)
    expect(page.get_by_role("alert")).to_have_text("")


def test_transparent_and_huge_images_are_said_in_words(open_page, tmp_path):
    page = open_page()
    Image.new("RGBA", (40, 30), (200, 100, 50, 128)).save(tmp_path / "glass.png")
    segment(page, tmp_path / "glass.png")
    expect(page.locator("#status")).to_contain_text("Its transparent parts count as black")
    rejected = page.evaluate(
        """async () => {
            const { openImage } = await import("./image.js");
            const sizes = { width: { value: 10000 }, height: { value: 9000 }, close: { value: () => {} } };
            const bitmap = Object.create(ImageBitmap.prototype, sizes);
            return openImage(bitmap, "huge.png", {}).catch((error) => error.message);
        }"""
    )
    assert rejected == "huge.png has 90 million pixels, the page takes up to 50 million. Try a smaller one."


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("onnx/model.onnx", "The model could not be loaded: onnx/model.onnx: the server answers 404."),
        ("runtime/ort.wasm.bundle.min.js", "The model could not be loaded: runtime/ort.wasm.bundle.min.js: "),
        ("resize.js", "A file of the page's folder is missing: export it again."),
    ],
)
def test_a_folder_that_is_not_whole_is_said_in_words(browser, site, name, message):
    address, folder = site
    page = browser.new_page()
    (folder / name).rename(folder / "away")
    try:
        page.goto(address)
        expect(page.get_by_role("alert")).to_contain_text(message, timeout=MILLISECONDS)
        expect(page.locator("#file")).to_be_disabled()
    finally:
        (folder / "away").rename(folder / name)
        page.close()


def test_a_phone_needs_no_scrolling_to_the_side_and_the_page_does_not_freeze(open_page):
    page = open_page(PHONE, has_touch=True)
    widths = "[document.documentElement.scrollWidth, innerWidth]"
    assert page.evaluate(widths) == [360, 360]
    page.set_input_files("#file", PHOTO)
    ticks = page.evaluate(
        """() => new Promise((resolve) => {
            let [last, longest] = [performance.now(), 0];
            const timer = setInterval(() => {
                const now = performance.now();
                [longest, last] = [Math.max(longest, now - last), now];
                if (document.getElementById("stage").getAttribute("aria-busy") === "false") {
                    clearInterval(timer);
                    resolve(longest);
                }
            }, 10);
        })"""
    )
    duration = page.evaluate("parseFloat(document.getElementById('status').textContent.match(/([\\d.]+) s/)[1]) * 1000")
    assert ticks < duration  # the network, which takes longest, ran elsewhere
    expect(page.locator("#controls")).to_be_visible()
    assert page.evaluate(widths) == [360, 360]
    for control in page.locator("button:visible, input:visible").all():
        assert control.evaluate("(each) => each.labels?.length > 0 || each.textContent.trim() !== ''")


def test_a_server_that_isolates_the_page_gives_it_threads_and_the_same_mask(browser, site, open_page, tmp_path):
    _, folder = site
    isolation = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
    masks = []
    with served(folder, isolation) as address:
        isolated = browser.new_page()
        isolated.goto(address)
        expect(isolated.locator("#file")).to_be_enabled(timeout=MILLISECONDS)
        for page, threads in ((isolated, isolated.evaluate("navigator.hardwareConcurrency")), (open_page(), 1)):
            segment(page, PHOTO)
            assert len(page.workers) == min(threads, 8)  # the page's own is the first thread
            downloaded_mask(page).save_as(tmp_path / "mask.png")
            masks.append(open_label_map(tmp_path / "mask.png"))
        isolated.close()
    np.testing.assert_array_equal(*masks)
