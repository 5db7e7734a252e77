"""The errors that users see: each names the thing that is wrong and the remedy."""


class SegformerError(ValueError):
    """Base of the errors that the command line prints as one line (exit code 2)."""


class CheckpointError(SegformerError):
    """A checkpoint cannot be found, read, recognised or matched with the model."""


class ImageError(SegformerError):
    """An image or a segmentation map cannot be read or has no usable form."""


class DatasetError(SegformerError):
    """A dataset is incomplete or holds labels that the model cannot learn."""
