"""A measurement, one value per item. One file a method."""
