"""Imported by the rooms that are made of Flax before anything else of theirs: says which extra brings it."""

from jaxconv._extras import need

need("this part of jaxconv", "flax")
