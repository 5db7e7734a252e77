"""Extension of griffe: the section "Example:" of the docstrings is rendered as code, as "Examples:" is."""

from __future__ import annotations

from typing import Any

import griffe


class ExamplesSection(griffe.Extension):
    """Gives each docstring the heading that griffe knows; without it, brackets in examples are taken for links."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every class, function and module."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("Example:\n", "Examples:\n")
