"""Dense weight in, compressed weight out: pure functions on arrays."""
