"""Which examples are trained on. One file a method."""
