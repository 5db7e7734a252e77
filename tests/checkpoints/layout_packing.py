"""What the writers of layouts share: sizes of the small network, its random values, and the archive of a layout."""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "fixtures" / "layouts"
WIDTHS, HEADS, DEPTHS, REDUCTIONS, RATIOS = (4, 8, 12, 16), (1, 2, 3, 4), (1, 2, 1, 1), (8, 4, 2, 1), (2, 2, 2, 2)
HEAD_WIDTH, LABELS = 8, 5
HUGGING_FACE = {
    "depths": list(DEPTHS),
    "hidden_sizes": list(WIDTHS),
    "num_attention_heads": list(HEADS),
    "mlp_ratios": list(RATIOS),
    "decoder_hidden_size": HEAD_WIDTH,
    "num_labels": LABELS,
}
RANDOM = np.random.default_rng(0)
IMAGE = np.round(RANDOM.standard_normal((1, 3, 64, 96)) * 8).astype("float32") / 8


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random values of a tensor: scales and variances around 1, the rest around 0, none trivial."""
    positive = any(part in name for part in ("gamma", "variance", "running_var")) or (
        len(shape) == 1 and name.endswith("weight")
    )
    fan_in = max(np.prod(shape) // max(shape[-1], shape[0]), 4) if len(shape) > 1 else 12
    weights = RANDOM.standard_normal(shape)
    weights = 1 + 0.3 * np.abs(weights) if positive else weights * (2 / fan_in) ** 0.5
    return (np.round(weights * 32) / 32).astype("float32")


def pack(name: str, files: Path, output: np.ndarray, image: np.ndarray | None = None) -> None:
    """Writes a layout; `files` may have any depth. With an image of its own, that and the output have channels last."""
    output = np.asarray(output)
    if image is None:
        image = IMAGE.transpose(0, 2, 3, 1)
        output = output.transpose(0, 2, 3, 1) if output.ndim == 4 else output
    buffer = io.BytesIO()
    np.savez(buffer, image=image, output=output)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tarfile.open(FOLDER / f"{name}.tar.xz", "w:xz", preset=9) as archive:
        entry = tarfile.TarInfo("expected.npz")
        entry.size = len(buffer.getvalue())
        archive.addfile(entry, io.BytesIO(buffer.getvalue()))
        for path in sorted(files.rglob("*")):
            if path.is_file():
                entry = tarfile.TarInfo(f"files/{path.relative_to(files).as_posix()}")
                entry.size = path.stat().st_size
                with path.open("rb") as file:
                    archive.addfile(entry, file)
    print(f"{name}: {(FOLDER / f'{name}.tar.xz').stat().st_size / 1000:.0f} kB")


def scratch() -> Path:
    return Path(tempfile.mkdtemp())
