"""A change of weights made without training. One file a method."""
