"""What lies on disk: packages, weight files, the protobuf, and how files appear whole."""
