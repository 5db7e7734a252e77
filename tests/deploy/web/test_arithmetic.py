"""The page's modules compute what Pillow and this package do: every filter, any number of classes, any processor."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.deploy.web.conftest import served
from tf_segformer.deploy.web import export
from tf_segformer.imaging.labels import generate_palette
from tf_segformer.imaging.postprocess import class_map_from_logits
from tf_segformer.imaging.processor import SegformerImageProcessor

pytest.importorskip("playwright", reason='needs the extra "browser"')
pytestmark = pytest.mark.slow

# Arrays travel as base 64: lists of a million numbers would take seconds.
RUN = """async ([module, call, buffers]) => {
    const arrays = buffers.map(([type, text]) => {
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        return new globalThis[type](bytes.buffer);
    });
    const functions = await import(module);
    let result = await new Function("functions", "arrays", `return ${call}`)(functions, arrays);
    if (result instanceof Blob) result = new Uint8Array(await result.arrayBuffer());
    const bytes = new Uint8Array(result.buffer);
    let text = "";
    for (let start = 0; start < bytes.length; start += 32768) {
        text += String.fromCharCode(...bytes.subarray(start, start + 32768));
    }
    return btoa(text);
}"""
TYPES = {"uint8": "Uint8Array", "uint16": "Uint16Array", "float32": "Float32Array"}


@pytest.fixture(scope="module")
def run(browser):
    """Runs an expression of `functions`, those of a module of the page, and `arrays`; gives the bytes of its result."""
    with served(export._PAGE) as address:
        page = browser.new_page()
        page.goto(f"{address}/runtime/LICENSE.txt")  # a file of the same server, without the page's policy

        def run_in_page(module: str, call: str, *arrays: np.ndarray) -> bytes:
            buffers = [(TYPES[each.dtype.name], base64.b64encode(each.tobytes()).decode()) for each in arrays]
            return base64.b64decode(page.evaluate(RUN, [f"{address}/{module}", call, buffers]))

        yield run_in_page
        page.close()


@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize("size", [(97, 33), (33, 97), (64, 48), (5, 300)])
def test_images_are_resized_bit_for_bit_as_by_pillow(run, size, resample):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    for width, height in ((48, 48), (200, 17), (17, 200), size, (size[0], 20), (1, 1)):
        image = f"{{data: arrays[0], width: {size[0]}, height: {size[1]}}}"
        call = f"functions.resize({image}, {width}, {height}, {resample}).data"
        resized = np.frombuffer(run("resize.js", call, pixels), np.uint8).reshape(height, width, 3)
        expected = np.asarray(Image.fromarray(pixels).resize((width, height), resample))
        np.testing.assert_array_equal(resized, expected, err_msg=f"{width}x{height}")


@pytest.mark.parametrize(
    "fields",
    [
        {"size": (40, 56), "resample": 3},
        {"do_resize": False, "do_rescale": False, "image_mean": 100.5, "image_std": (50, 60, 70)},
        {"size": 32, "do_normalize": False, "rescale_factor": 1 / 127},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_pixel_values_are_those_of_the_processor(run, fields):
    processor = SegformerImageProcessor(**fields)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    expected = processor(pixels, data_format="channels_first")["pixel_values"][0].astype(np.float32)
    call = f"functions.pixelValues({{data: arrays[0], width: 70, height: 50}}, {json.dumps(processor.to_dict())}).data"
    values = np.frombuffer(run("pixel-values.js", call, pixels), np.float32).reshape(expected.shape)
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("num_labels", [1, 2, 19, 300])
def test_class_maps_and_masks_of_any_number_of_classes(run, num_labels):
    logits = np.random.default_rng(0).standard_normal((12, 17, num_labels)).astype(np.float32)
    logits = np.repeat(np.repeat(logits, 2, axis=0), 2, axis=1)  # (24, 34): equal neighbours, and others
    channels_first = np.ascontiguousarray(logits.transpose(2, 0, 1))
    kind = np.uint16 if num_labels > 256 else np.uint8
    for height, width in ((95, 133), (24, 34), (10, 50)):
        expected = class_map_from_logits(logits, (height, width))
        call = f"functions.classMapFromLogits(arrays[0], [{num_labels}, 24, 34], {width}, {height}).classMap"
        class_map = np.frombuffer(run("class-map.js", call, channels_first), kind).reshape(height, width)
        assert np.mean(class_map == expected) >= 0.999
        colors = generate_palette(max(2, num_labels)).tolist()
        call = f"functions.encodeMask(arrays[0], {width}, {height}, {colors})"
        mask = Image.open(io.BytesIO(run("png.js", call, class_map)))
        np.testing.assert_array_equal(np.asarray(mask), class_map)
        if kind == np.uint8:
            assert mask.getpalette()[: 3 * len(colors)] == np.ravel(colors).tolist()
