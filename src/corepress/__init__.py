"""corepress: make machine-learning models small for Apple's Core ML, on any machine."""

__version__ = "0.1.0"
