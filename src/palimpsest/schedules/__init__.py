"""Progress in [0, 1] to a multiplier. One file a schedule."""
