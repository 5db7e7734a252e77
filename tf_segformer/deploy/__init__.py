"""From a trained model to what serves it: SavedModel, TensorFlow Serving, LiteRT and ONNX."""

from tf_segformer.requirements import check_keras

check_keras()
