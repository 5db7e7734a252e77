"""The network as an ONNX file, written without TensorFlow."""
