"""Writes golden.npz: what the image processor of transformers 4 gives for every golden case.

Run in an environment with transformers below 5 (it was 4.49.0) and Pillow 13:

    python -m tests.imaging.make_golden
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import PIL
import transformers

from tests.imaging.golden_cases import golden_cases, make_image, make_labels


def main() -> None:
    """Runs every case and stores hashes of all results, and the results of one for the eye."""
    if int(transformers.__version__.split(".")[0]) > 4 or int(PIL.__version__.split(".")[0]) < 13:
        raise SystemExit("Needs transformers below 5 and Pillow 13 or newer.")
    processor = transformers.SegformerImageProcessor()
    names, digests = [], []
    for case in golden_cases():
        image, labels = make_image(case.shape, case.kind), make_labels(case.shape)
        options = {"data_format": "channels_last", **case.options}
        batch = processor(image, [labels], return_tensors="np", **options)
        pixel_values, labels = batch["pixel_values"], batch["labels"].astype(np.int32)
        names.append(case.name)
        digests.append(hashlib.sha256(pixel_values.tobytes() + labels.tobytes()).hexdigest())
        if case.name == "defaults":
            example = {"example_pixel_values": pixel_values, "example_labels": labels}
    versions = f"transformers {transformers.__version__}, Pillow {PIL.__version__}"
    np.savez_compressed(
        Path(__file__).parent / "golden.npz", names=names, digests=digests, versions=versions, **example
    )
    print(f"{len(names)} cases from {versions}")


if __name__ == "__main__":
    main()
