"""A model as a page for browsers: the page, the engine that runs in it, and the export that puts them together."""
