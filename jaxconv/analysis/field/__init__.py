"""Receptive fields: exact from the graph, measured by gradients, and effective."""
