"""The few methods that steer several stages. One file each."""
