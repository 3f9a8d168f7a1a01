"""Which weights may move. One file a method."""
