"""The exported models of tests/deploy, whose decoding of images is tested here."""

from tests.deploy.conftest import exported

__all__ = ["exported"]
