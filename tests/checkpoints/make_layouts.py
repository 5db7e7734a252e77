"""Writes one small random network in each layout that repositories of SegFormer have, by the package that writes it.

    python -m tests.checkpoints.make_layouts torch        # torch 2.13, transformers 5.24, lightning 2.6, peft 0.21,
                                                          # segmentation-models-pytorch 0.6, omegaconf 2.4
    python -m tests.checkpoints.make_layouts torch write_peft   # again with transformers 4.49, for its names
    python -m tests.checkpoints.make_layouts keras_hub    # keras-hub 0.32, Keras 3.15
    python -m tests.checkpoints.make_layouts tensorflow   # transformers 4.49, tf-keras 2.21, TF_USE_LEGACY_KERAS=1

Each layout becomes fixtures/layouts/NAME.tar.xz: the repository in `files`, and expected.npz with an image (B, H, W, C)
and the package's own output for it. NVlabs, mmsegmentation and NVIDIA TAO cannot be installed: their files are those of
`reference.py` under the names of their repositories. Weights are multiples of 1/32, so that the archives are small.
"""

from __future__ import annotations

import sys

from tests.checkpoints.make_keras_layouts import write_keras_hub, write_tensorflow
from tests.checkpoints.make_torch_layouts import (
    write_hugging_face,
    write_lightning,
    write_peft,
    write_reference,
    write_smp,
)

WRITERS = {
    "torch": (write_hugging_face, write_smp, write_peft, write_lightning, write_reference),
    "keras_hub": (write_keras_hub,),
    "tensorflow": (write_tensorflow,),
}


if __name__ == "__main__":
    wanted = sys.argv[2:]
    for writer in WRITERS[sys.argv[1]]:
        if not wanted or writer.__name__ in wanted:
            writer()
