"""python beam_segment.py SAVEDMODEL PATTERN OUTPUT: a line of JSON per image, by Apache Beam over an exported model."""

import json
import sys

import apache_beam as beam
from apache_beam.io import fileio
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference


class SegformerHandler(ModelHandler):
    def __init__(self, saved_model):
        super().__init__(max_batch_size=16)
        self.saved_model = saved_model

    def load_model(self):  # once per worker
        import tensorflow as tf

        return tf.saved_model.load(self.saved_model)

    def run_inference(self, batch, model, inference_args=None):
        import tensorflow as tf

        answer = model.signatures["serving_default"](image_bytes=tf.constant(list(batch)))
        rows = (answer[name].numpy().tolist() for name in ("status", "labels", "class_fractions"))
        for status, labels, fractions in zip(*rows, strict=True):  # answer["class_map_bytes"] are the masks as PNG
            names = [label.decode() for label in labels]
            yield {"status": status.decode(), "class_fractions": dict(zip(names, fractions, strict=True))}


if __name__ == "__main__":
    saved_model, pattern, output, *options = sys.argv[1:]
    with beam.Pipeline(argv=options) as pipeline:  # such as --runner=DataflowRunner
        files = pipeline | fileio.MatchFiles(pattern) | fileio.ReadMatches()
        images = files | beam.Map(lambda file: (file.metadata.path, file.read()))
        answers = images | RunInference(KeyedModelHandler(SegformerHandler(saved_model)))
        lines = answers | beam.MapTuple(lambda path, answer: json.dumps({"id": path, **answer}))
        _ = lines | beam.io.WriteToText(output)
