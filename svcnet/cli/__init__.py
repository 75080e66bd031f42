"""The composition root: the only room that picks store and data path by name."""
