"""Images in, class maps out: processor, the same in TensorFlow ops, post-processing, labels and drawing."""
