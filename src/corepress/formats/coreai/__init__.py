"""Core AI models (`.aimodel`, iOS 27) on disk.

`asset.py`  what an `.aimodel` is, for those who write one

What is in it is read and written by coreai-core, the library of Apple, and by nothing else.
"""
