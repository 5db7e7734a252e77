"""Runs the command line as `python -m tf_segformer`."""

from tf_segformer.cli import main

if __name__ == "__main__":
    main()
