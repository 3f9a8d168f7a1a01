"""What a method is held against. One file each."""
