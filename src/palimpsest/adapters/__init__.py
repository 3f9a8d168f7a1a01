"""One file per kind of model: how its rows become tensors, what a method sees of it, what an audit may ask."""
