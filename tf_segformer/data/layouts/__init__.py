"""How tools and published datasets lay out their files: one small module of functions per tool."""
