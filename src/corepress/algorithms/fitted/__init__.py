"""Weights compressed with statistics of the inputs they meet: tensors of PyTorch in, compressed weights out."""
