"""A change of behavior at inference. One file a method."""
