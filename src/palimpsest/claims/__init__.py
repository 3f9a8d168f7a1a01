"""One file per paper: what it is, the modules that implement it, and its claims as experiments."""
