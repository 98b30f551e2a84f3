"""What a refinement has come to, in a folder, so that one that was stopped or killed goes on to the same bytes.

The file `refinement.pt` holds what the training needs (`Training.run`), and what it is of. It is replaced as a whole
after each look at the samples held back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from corepress.errors import FormatError
from corepress.formats.atomic import Kind, replacing
from corepress.resuming import check_same, folder_for

_NAME = "refinement.pt"
_KIND = Kind("a refinement", ".pt", False, Path.is_file)


class Kept:
    """The folder of one refinement.

    Args:
        folder: It is made if there is none.
        asked: What the refinement is of, by words for people, such as "model" and "data": each a text that is the same
            for the same thing.

    Raises:
        OutputError: If the folder can't be used.
    """

    def __init__(self, folder: str | Path, asked: Mapping[str, str]):
        self._path = folder_for(folder) / _NAME
        self._asked = dict(asked)

    def get(self) -> Any | None:
        """What was kept last; None if nothing was.

        Raises ConfigError if it is of another refinement, and FormatError if the file is none of ours.
        """
        if not self._path.exists():
            return None
        try:
            content = torch.load(self._path, map_location="cpu", weights_only=True)
            asked, state = content["asked"], content["state"]
        except Exception as error:  # whatever a damaged file makes of it
            raise FormatError(f"resume={str(self._path.parent)!r}: {_NAME} is no file of a refinement") from error
        check_same(self._path.parent, "refinement", asked, self._asked)
        return state

    def put(self, state: Mapping[str, Any]) -> None:
        """Keep a state in the place of the one before, on the disk when this returns."""
        with replacing(self._path, _KIND, overwrite=True) as partial, partial.open("wb") as file:
            torch.save({"asked": self._asked, "state": dict(state)}, file)
