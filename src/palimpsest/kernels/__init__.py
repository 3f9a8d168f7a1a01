"""Computations that must not be written the plain way: the same figures in less memory or less time."""
