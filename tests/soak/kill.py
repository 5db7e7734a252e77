"""Kills writers with SIGKILL at random moments: python -m tests.soak.kill [KILLS, shared by the three writers].

After each kill, what is on the disk must be whole, old or new; a training run that was killed again and again must end
with the same bits as one that was not. Prints one line of JSON; any damage ends it with an error.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from tests.training.scenes import NAMES, write_dataset
from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation, cli
from tf_segformer.cli.outputs import OutputFolder
from tf_segformer.configuration import CONFIG_NAME
from tf_segformer.hub import resolve_file, resolve_weights
from tf_segformer.inference.results import SegmentationResult

STEPS = 40
RECIPE = f"""
from tf_segformer.data.augmentation import Augmentation
from tf_segformer.training.recipes import Phase, Recipe
RECIPE = Recipe("tiny", "b0", "folder", (Phase({STEPS}, 2, Augmentation((32, 32))),), validate_every=2, warmup_steps=2,
    model={{"depths": (1, 1, 1, 1), "hidden_sizes": (8, 8, 16, 16), "num_attention_heads": (1, 1, 2, 2),
           "decoder_hidden_size": 16}})
"""


def in_a_child(action: Callable[[], None], kill_after: float | None = None) -> bool:
    """Runs an action in a forked process, which is killed where it has not ended by then; whether it ended well.

    TensorFlow is imported here but has computed nothing, so a fork is safe and costs no start.
    """
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            action()
            code = 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + (3600 if kill_after is None else kill_after)
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            assert status == 0, f"the writer failed by itself: {status}"
            return True
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return False


def train(folder: Path, output: str, resume: bool) -> None:
    """Trains as the command line does."""
    arguments = [f"--recipe={folder}/recipe.py", f"--data={folder}/scenes", f"--output={folder}/{output}"]
    arguments += [f"--class-names={','.join(NAMES)}", *(["--resume"] if resume else [])]
    with click.Context(cli.cli):
        cli.cli.main(["train", *arguments], standalone_mode=False)


def arrays(path: Path) -> dict[str, np.ndarray]:
    """A training state; raises where it is not whole."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def kill_training(folder: Path, kills: int, generator: random.Random) -> Counter:
    """Kills and resumes one run until it is done, then begins the next, and compares the ends."""
    counts: Counter = Counter()
    start = time.monotonic()
    in_a_child(lambda: train(folder, "whole", resume=False))
    seconds = time.monotonic() - start
    wanted = arrays(folder / "whole" / "state.npz")
    while counts["kills"] < kills:
        output = f"run{counts['runs']}"
        state = folder / output / "state.npz"
        while True:
            resume = state.exists()
            # a run spends most of its time compiling: a third are killed then, the others while it trains and saves
            kill_after = generator.uniform(0.1, 1.3) * seconds if counts["kills"] < kills else None
            done = in_a_child(lambda output=output, resume=resume: train(folder, output, resume), kill_after)
            if state.exists():
                arrays(state)
            if done:
                break
            counts["kills"] += 1
            counts["kills after the first save"] += state.exists()
        counts["runs"] += 1
        ended = arrays(state)
        assert ended.keys() == wanted.keys()
        different = [name for name in wanted if not np.array_equal(ended[name], wanted[name]) and name != "__meta__"]
        assert not different, f"a resumed run ended with other bits: {different}"
    return counts


def kill_saving(folder: Path, kills: int, generator: random.Random) -> Counter:
    """Kills a process that saves two models by turns to one folder; the folder must hold the one or the other."""
    counts: Counter = Counter()
    fields = {"depths": (1, 1, 1, 1), "hidden_sizes": (16, 32, 64, 128), "num_attention_heads": (1, 1, 2, 2)}

    def save_by_turns() -> None:
        models = [SegformerForSemanticSegmentation(SegformerConfig(**fields, num_labels=n)) for n in (3, 7)]
        for model, value in zip(models, (3.0, 7.0), strict=True):
            model.set_weights([np.full_like(weight, value) for weight in model.get_weights()])
        while True:
            for model in models:
                model.save_pretrained(folder)

    while counts["kills"] < kills:
        in_a_child(save_by_turns, kill_after=generator.uniform(1.0, 4.0))
        counts["kills"] += 1
        if not (folder / CONFIG_NAME).exists():
            counts["nothing yet"] += 1
            continue
        labels = len(json.loads(resolve_file(folder, CONFIG_NAME).read_text())["id2label"])
        tensors = load_file(resolve_weights(folder))
        values = {
            float(value) for tensor in tensors.values() if tensor.dtype.kind == "f" for value in np.unique(tensor)
        }
        assert values == {float(labels)}, f"a mixture: {labels} labels with weights {values}"
        counts[f"{labels} labels"] += 1
    return counts


def kill_predicting(folder: Path, kills: int, generator: random.Random) -> Counter:
    """Kills a process that writes masks and JSON of images by turns; each file must be whole."""
    counts: Counter = Counter()
    photo = folder / "photo.png"
    folder.mkdir(parents=True)
    Image.new("RGB", (640, 480)).save(photo)
    labels = dict(enumerate(NAMES))

    def write_by_turns() -> None:
        while True:
            for value in (1, 2):
                result = SegmentationResult(0, str(photo), np.full((480, 640), value), labels)
                outputs = OutputFolder(folder / "out", ("overlay", "mask", "json"), [photo])
                outputs.write(result, outputs.paths_for(result))

    while counts["kills"] < kills:
        in_a_child(write_by_turns, kill_after=generator.uniform(0.02, 0.5))
        counts["kills"] += 1
        for path in (folder / "out").glob("photo*"):
            if path.suffix == ".json":
                assert json.loads(path.read_text())["height"] == 480
            else:
                Image.open(path).load()
            if path.name.endswith("_mask.png"):
                assert len(np.unique(np.asarray(Image.open(path)))) == 1
            counts["whole files"] += 1
    return counts


def main(kills: int) -> None:
    """Runs all three; prints what was killed."""
    generator = random.Random(0)
    share = -(-kills // 3)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_dataset(folder / "scenes", train=4, val=1)
        (folder / "recipe.py").write_text(RECIPE)
        outcome = {
            "predict": kill_predicting(folder / "predict", share, generator),
            "save_pretrained": kill_saving(folder / "model", share, generator),
            "train": kill_training(folder, kills - 2 * share, generator),
        }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
