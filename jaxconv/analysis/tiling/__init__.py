"""Whole images tile by tile, with the result of the whole."""
