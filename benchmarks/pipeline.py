"""Images a second of the input pipeline beside those of the training step: the input must not be the bottleneck.

python -m benchmarks.pipeline --recipe camvid-b0 --data CamVid
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def images_per_second(batches, count: int, batch_size: int) -> float:
    """The rate of `count` batches after the first two, which start the threads and fill the buffers."""
    iterator = iter(batches)
    for _ in range(2):
        next(iterator)
    start = time.perf_counter()
    for _ in itertools.islice(iterator, count):
        pass
    return count * batch_size / (time.perf_counter() - start)


def model_images_per_second(recipe, num_labels: int, batch, count: int) -> float:
    """The rate of the training step on one batch that is at hand."""
    from tf_segformer import SegformerConfig, SegformerForSemanticSegmentation
    from tf_segformer.training.trainer import compile_model

    model = SegformerForSemanticSegmentation(
        SegformerConfig.from_variant(recipe.variant, num_labels=num_labels, **recipe.model)
    )
    compile_model(model, recipe)
    for _ in range(2):
        model.train_on_batch(*batch)
    start = time.perf_counter()
    for _ in range(count):
        model.train_on_batch(*batch)
    return count * len(batch[0]) / (time.perf_counter() - start)


def main() -> None:
    """Reads the command line, measures, prints one line a phase of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="camvid-b0")
    parser.add_argument("--data", required=True, help="folder of the recipe's dataset")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--threads", type=int, help="CPU threads; default all")
    arguments = parser.parse_args()

    import tensorflow as tf

    from tf_segformer import SegformerImageProcessor
    from tf_segformer.data import find_dataset, training_dataset, write_tfrecords
    from tf_segformer.training.recipes import load_recipe

    if arguments.threads:
        tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
        tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    recipe = load_recipe(arguments.recipe)
    dataset = find_dataset(recipe.dataset, arguments.data, "train")
    with tempfile.TemporaryDirectory() as folder:
        shards = write_tfrecords(dataset, folder)
        print(f"{recipe.name} on {dataset.name}, {arguments.threads or os.cpu_count()} threads, images a second")
        print(f"{'crop':>12}{'batch':>7}{'files':>10}{'shards':>10}{'training step':>16}")
        for phase in recipe.phases:
            rates = []
            for source in (dataset, shards):
                batches = training_dataset(
                    source,
                    phase.augmentation,
                    phase.batch_size,
                    processor=SegformerImageProcessor(),
                    last_step=arguments.batches + 2,
                    parallel_calls=arguments.threads,
                )
                rates.append(images_per_second(batches, arguments.batches, phase.batch_size))
            batch = next(iter(batches))
            rates.append(model_images_per_second(recipe, dataset.num_labels, batch, max(arguments.batches // 4, 2)))
            crop = "x".join(map(str, phase.augmentation.crop_size))
            print(f"{crop:>12}{phase.batch_size:>7}{rates[0]:>10.1f}{rates[1]:>10.1f}{rates[2]:>16.1f}", flush=True)


if __name__ == "__main__":
    main()
