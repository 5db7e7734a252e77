"""Peak memory and time of a raster that is segmented through windows, and whether each pixel stayed in its place.

    python -m benchmarks.raster                                   # 20,000 x 20,000, four bands of uint16
    python -m benchmarks.raster --side 4000 --work FOLDER         # keeps the files; a scene that is there is used
    python -m benchmarks.raster --against-whole SCENE.png         # pixels that differ from inference on the whole

The scene is generated and written by windows; camvid-b0, its first kernel spread over four bands, segments it in a
process of its own. The class raster must have size, CRS and transform of the scene, and each pixel of a crop the class
that the same windows give it when the crop is an array in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

from benchmarks.harness import report
from benchmarks.harness.memory import peak_bytes

_TILE, _BANDS, _CROP = 512, 4, 2000
_PLACE = ("EPSG:32633", (0.2, 0.0, 400_000.0, 0.0, -0.2, 5_800_000.0))
_AGAINST_WHOLE = [(512, 384), (512, 256), (1024, 768), (1024, 512), (1536, 448), (1920, 64)]  # window, stride


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--stride", type=int, default=384)
    parser.add_argument("--work", type=Path, help="folder of scene.tif and classes.tif; default a temporary one")
    parser.add_argument("--against-whole", type=Path, metavar="IMAGE", help="an RGB image instead of a raster")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(_segment(arguments)))
    elif arguments.against_whole:
        rows = list(_differences(arguments.against_whole))
        notes = f"Percent of the pixels whose class is another than from one forward pass. {_machine()}"
        report.publish("raster", [report.Table(f"Windows and the whole: {arguments.against_whole.name}", rows, notes)])
    else:
        report.publish("raster", [_measure(arguments)])


def _machine() -> str:
    return report.machine([{name: version(name) for name in ("tensorflow", "rasterio")}])


def _measure(arguments: argparse.Namespace) -> report.Table:
    """The table of one raster."""
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        if not (work / "scene.tif").exists():
            _write_scene(work / "scene.tif", arguments.side)
        command = [sys.executable, "-m", "benchmarks.raster", "--child", "--work", str(work)]
        command += ["--window", str(arguments.window), "--stride", str(arguments.stride)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        row = json.loads(output.splitlines()[-1])
        row = {"window": arguments.window, "stride": arguments.stride, **row, "place": _same_place(work)}
    title = f"Raster: {arguments.side} x {arguments.side}, {_BANDS} bands of uint16, camvid-b0"
    notes = (
        "Largest resident memory of the whole process. shifted: pixels of a crop, in percent, whose class is another "
        f"than that of the same windows over an array. {_machine()}"
    )
    return report.Table(title, [row], notes)


def _write_scene(path: Path, side: int) -> None:
    """Smooth random fields in uint16, a row of tiles at a time; the tiles of a row and of all rows differ."""
    import rasterio
    from rasterio.windows import Window

    generator = np.random.default_rng(0)
    crs, transform = _PLACE
    options = {"driver": "GTiff", "width": side, "height": side, "count": _BANDS, "dtype": "uint16", "tiled": True,
               "blockxsize": _TILE, "blockysize": _TILE, "compress": "deflate", "zlevel": 1, "predictor": 2,
               "photometric": "MINISBLACK", "crs": crs, "transform": rasterio.Affine(*transform)}  # fmt: skip
    partial = path.with_suffix(".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(partial, "w", **options) as raster:
        for top in range(0, side, _TILE):
            height = min(_TILE, side - top)
            coarse = generator.random((_BANDS, height // 16 + 1, side // 16 + 1), np.float32)
            fields = [Image.fromarray(each).resize((side, height), Image.Resampling.BILINEAR) for each in coarse]
            values = np.stack([np.asarray(field) for field in fields]) * 65_535
            raster.write(values.astype(np.uint16), window=Window(0, top, side, height))
    partial.rename(path)


def _segment(arguments: argparse.Namespace) -> dict[str, Any]:
    """Segments the scene of a folder in this process."""
    from tf_segformer.raster.segment import segment_raster

    predictor = _predictor(_BANDS, 65_535, arguments.window, arguments.stride)
    scene, classes = arguments.work / "scene.tif", arguments.work / "classes.tif"
    began = time.perf_counter()

    def progress(done: int, total: int) -> None:
        print(f"\r{done} of {total} rows, {time.perf_counter() - began:.0f} s", end="", file=sys.stderr, flush=True)

    segment_raster(predictor, scene, classes, progress=progress)
    seconds, peak = time.perf_counter() - began, peak_bytes()  # what follows is not measured
    return {"peak, GB": peak / 1e9, "seconds": seconds, "shifted, %": _shifted(predictor, scene, classes)}


def _predictor(channels: int, largest: float, window: int, stride: int) -> Any:
    from tf_segformer import SegformerForSemanticSegmentation, SegformerImageProcessor, SegmentationPredictor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the first kernel is spread
        model = SegformerForSemanticSegmentation.from_pretrained(
            "camvid-b0", num_channels=channels, ignore_mismatched_sizes=True
        )
    own = SegformerImageProcessor.from_pretrained("camvid-b0")
    mean, std = ([*values, np.mean(values)][:channels] for values in (own.image_mean, own.image_std))
    processor = SegformerImageProcessor(False, image_mean=mean, image_std=std, rescale_factor=1 / largest)
    return SegmentationPredictor(
        model, processor, "slide", window=window, stride=stride, blend="cosine", progress=False
    )


def _shifted(predictor: Any, scene: Path, classes: Path) -> float:
    """Percent of a crop's pixels that an array of the crop and its surroundings gives another class.

    The crop begins where a window does, so that the same windows lie over it; at the border of its surroundings some
    are missing.
    """
    import rasterio
    from rasterio.windows import Window

    stride, border = predictor.stride[0], predictor.window[0] - predictor.stride[0]
    with rasterio.open(scene) as source, rasterio.open(classes) as predicted:
        first = source.height // 2 // stride * stride
        wanted = min(_CROP + 2 * border, source.height - first - predictor.window[0])
        side = predictor.window[0] + max(wanted - predictor.window[0], 0) // stride * stride
        box = Window(first, first, side, side)
        pixels, expected = np.moveaxis(source.read(window=box), 0, -1), predicted.read(1, window=box)
    logits = predictor.window_logits((side, side), lambda box: pixels[box[0] :, box[1] :][: box[2], : box[3]])
    found = np.concatenate([logits.rows(row, row + 1).argmax(-1) for row in range(side)])
    inner = slice(border, side - border)
    return 100 * float((found != expected)[inner, inner].mean())


def _same_place(work: Path) -> str:
    """Whether the class raster lies where the scene does."""
    import rasterio

    with rasterio.open(work / "scene.tif") as source, rasterio.open(work / "classes.tif") as classes:
        same = all(getattr(source, name) == getattr(classes, name) for name in ("shape", "crs", "transform"))
    return "equal" if same else "differs"


def _differences(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a table: how many pixels windows give another class than one forward pass over the whole image."""
    image = np.asarray(Image.open(path).convert("RGB"))
    (whole,) = _predictor(3, 255, max(image.shape[:2]), max(image.shape[:2]))([image])
    for window, stride in _AGAINST_WHOLE:
        began = time.perf_counter()
        (result,) = _predictor(3, 255, window, stride)([image])
        different = 100 * float((result.class_map != whole.class_map).mean())
        yield {"window": window, "stride": stride, "%": different, "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    main()
