"""What is minimized. One file a method."""
