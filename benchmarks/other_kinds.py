"""Test data of another kind than what benchmarks calibrate on: turned and noisy images, and technical prose."""

from __future__ import annotations

import numpy as np
import torch

WORDS = (8, 40)  # of a piece of prose


def disturbed(images: np.ndarray) -> np.ndarray:
    """Images, (n, 1, height, width), turned by 20 to 40 degrees to either side, with noise of half their deviation."""
    random = np.random.default_rng(0)
    angles = np.deg2rad(random.uniform(20, 40, len(images)) * random.choice([-1, 1], len(images)))
    turns = np.stack([[np.cos(angles), -np.sin(angles)], [np.sin(angles), np.cos(angles)]]).transpose(2, 0, 1)
    moves = torch.from_numpy(np.pad(turns, ((0, 0), (0, 0), (0, 1))).astype(np.float32))
    grid = torch.nn.functional.affine_grid(moves, list(images.shape), align_corners=False)
    turned = torch.nn.functional.grid_sample(torch.from_numpy(images), grid, "bilinear", "border", False).numpy()
    return (turned + random.normal(0, images.std() / 2, images.shape)).astype(np.float32)


def prose(count: int) -> list[str]:
    """Beginnings of docstrings of NumPy: technical English, with names and signs in it."""
    found = {
        " ".join(paragraph.split())
        for name in sorted(np.__all__)
        for paragraph in (getattr(np, name).__doc__ or "").split("\n\n")
        if WORDS[0] <= len(paragraph.split()) <= WORDS[1] and ">>>" not in paragraph
    }
    return [str(text) for text in np.random.default_rng(0).permutation(sorted(found))[:count]]
