"""Converts SegFormer weights: python convert_weights.py SOURCE TARGET [--to keras|huggingface|nvlabs] [--verify]."""

import sys

from tf_segformer.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "convert")
    main()
