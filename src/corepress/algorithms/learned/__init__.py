"""Weights compressed by gradients."""
