"""Activation quantization of packages."""
