"""From a function to the graph of what its values read of each other, and sweeps over it."""
