"""Varied photographs for a classifier of images: those that Debian packages bring, of which nothing is kept here.

    python benchmarks/photographs.py FOLDER        # says how many there are

Animals, buildings and things of a game for children, landscapes for desktops, and photographs that were cut out, which
are put before others. A third of the pictures is held out as a whole: nothing learns from any part of them. They are
fetched by `apt-get download` and unpacked by `dpkg-deb`; Pillow reads them.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.lite import SIZE, crop

# Where each package has photographs; some of its wallpapers are drawings, of other sizes or in other folders.
_SCENES = {
    "plasma-workspace-wallpapers": "usr/share/wallpapers/*/contents/images/2560x1600.jpg",
    "mate-backgrounds": "usr/share/backgrounds/mate/nature/*.jpg",
    "lomiri-wallpapers-16.04": "usr/share/backgrounds/*.jpg",
    "lomiri-wallpapers-20.04": "usr/share/backgrounds/*.jpg",
    "tuxpaint-data": "usr/share/tuxpaint/templates/*.jpg",
}
_STAMPS = "usr/share/tuxpaint/stamps"
# Those of other kinds are drawings.
_KINDS = ("animals", "food", "hobbies", "household", "plants", "space", "sports", "vehicles")
_RESOURCES = "usr/share/gcompris-qt/rcc"
_ACTIVITIES = ("categorization", "erase", "explore_farm_animals", "explore_monuments", "explore_world_animals")
PACKAGES = ("gcompris-qt-data", "tuxpaint-stamps-default", *_SCENES)
# Pixels of the shorter side below which a picture is an icon, and of those that are kept.
_LEAST, _MOST = 200, 480
# Of so many neighbours by name, which may be views of one thing, all are on the same side.
_TOGETHER = 6

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Pictures:
    """Files of photographs: those that show something, cut-out ones, and those with room for these."""

    whole: Sequence[bytes]
    stamps: Sequence[bytes]
    scenes: Sequence[bytes]

    def samples(self, count: int, seed: int = 0) -> list[dict[str, NDArray[np.float32]]]:
        """Crops of photographs, and as many of scenes with something before them, of each picture in turn."""
        random = np.random.default_rng(seed)
        orders = [random.permutation(len(files)) for files in (self.whole, self.stamps, self.scenes)]
        made = []
        for number in range(count):
            whole, stamp, scene = (
                files[order[number // 2 % len(order)]]
                for files, order in zip((self.whole, self.stamps, self.scenes), orders, strict=True)
            )
            image = crop(_scaled(_read(scene if number % 2 else whole, "RGB")), random)
            made.append({"image": _before(image, stamp, random) if number % 2 else image})
        return made


def pictures(folder: Path) -> tuple[Pictures, Pictures]:
    """Those to learn from, and those that are held out; packages are fetched to a folder, if they are not there."""
    for package in PACKAGES:
        _fetch(package, folder)
    backgrounds = [path for package, places in _SCENES.items() for path in sorted((folder / package).glob(places))]
    scenes = [path.read_bytes() for path in backgrounds]
    stamps = [path.read_bytes() for path in _cut_out(folder / "tuxpaint-stamps-default" / _STAMPS)]
    whole = [
        found
        for activity in _ACTIVITIES
        for found in _held((folder / "gcompris-qt-data" / _RESOURCES / f"{activity}.rcc").read_bytes())
    ]
    parts = [_parted(files) for files in (whole, stamps, scenes)]
    learnt, held_out = (Pictures(*of_each) for of_each in zip(*parts, strict=True))
    return learnt, held_out


def _fetch(package: str, folder: Path) -> None:
    unpacked = folder / package
    if unpacked.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True, capture_output=True)
        (archive,) = folder.glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, unpacked], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"the Debian package {package} can't be had: unpack it to {unpacked} ({error})") from error


def _cut_out(folder: Path) -> Iterator[Path]:
    for kind in _KINDS:
        for path in sorted((folder / kind).rglob("*.png")):
            if "cartoon" not in path.parts and min(Image.open(path).size) >= _LEAST // 2:
                yield path


def _held(content: bytes) -> Iterator[bytes]:
    """The photographs, as WebP, that a file of Qt's resources holds as they are."""
    for found in re.finditer(rb"RIFF(....)WEBP", content, re.DOTALL):
        file = content[found.start() : found.start() + 8 + int.from_bytes(found[1], "little")]
        image = Image.open(io.BytesIO(file))
        if image.mode == "RGB" and min(image.size) >= _LEAST:
            yield file


def _parted(files: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Two of three to learn from, and the third."""
    known = list(dict.fromkeys(files))
    held = [number // _TOGETHER % 3 == 2 for number in range(len(known))]
    learnt, held_out = ([file for file, out in zip(known, held, strict=True) if out is way] for way in (False, True))
    return learnt, held_out


def _read(file: bytes, mode: str) -> Image.Image:
    image = Image.open(io.BytesIO(file))
    image.draft(mode, (_MOST, _MOST))  # the least size of a JPEG that is enough
    return image.convert(mode)


def _scaled(image: Image.Image) -> NDArray[np.float32]:
    """From -1 to 1."""
    ratio = _MOST / min(image.size)
    if ratio < 1:
        image = image.resize([round(length * ratio) for length in image.size], Image.Resampling.LANCZOS)
    return (np.asarray(image, np.float32) - 127) / 128


def _before(image: NDArray[np.float32], stamp: bytes, random: np.random.Generator) -> NDArray[np.float32]:
    """Something that was cut out, before an image, (1, 3, height, width)."""
    thing = _read(stamp, "RGBA")
    thing = thing.crop(thing.getchannel("A").getbbox())
    ratio = SIZE * random.uniform(0.6, 0.95) / max(thing.size)
    thing = thing.resize([max(1, round(length * ratio)) for length in thing.size], Image.Resampling.LANCZOS)
    pixels = np.asarray(thing, np.float32).transpose(2, 0, 1)
    if random.random() < 0.5:
        pixels = pixels[..., ::-1]
    top, left = (random.integers(SIZE - length + 1) for length in pixels.shape[1:])
    result = image.copy()
    behind = result[0, :, top : top + pixels.shape[1], left : left + pixels.shape[2]]
    share = pixels[3] / 255
    behind[...] = behind * (1 - share) + (pixels[:3] - 127) / 128 * share
    return result


if __name__ == "__main__":
    for words, part in zip(("to learn from", "held out"), pictures(Path(sys.argv[1])), strict=True):
        print(f"{words}: {len(part.whole)} photographs, {len(part.stamps)} cut out, {len(part.scenes)} scenes")
