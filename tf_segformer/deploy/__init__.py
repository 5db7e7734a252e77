"""From a trained model to what serves it: SavedModel, TensorFlow Serving, LiteRT and ONNX."""
