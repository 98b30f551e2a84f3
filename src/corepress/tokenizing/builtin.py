"""The texts that come with corepress, for those who have none at hand."""

from __future__ import annotations

from importlib.resources import files

from corepress.errors import ConfigError

# Stands alone on a line between two pieces.
_BETWEEN = "\n%\n"


def texts(count: int | None = None) -> list[str]:
    """Texts of many kinds to calibrate models of language with, written for corepress.

    They are news, letters, talk, recipes, contracts, medical notes, mathematics, program code, documentation, logs,
    tables, poems and more, of two words to a hundred and fifty; most are in English, some in 26 other languages.
    A model that is fitted to texts of one kind alone answers worse on others. Texts of your own, such as the model will
    meet, are better still: put them before these.

    Args:
        count: So many; all by default. Whatever the number, kinds are mixed in it as in all of them.

    Returns:
        The texts, in the same order each time.

    Raises:
        ConfigError: For a count below 0, or above that of all texts.

    Examples:
        >>> len(cto.texts(64))
        64
    """
    kinds = {
        file.name: file.read_text("utf-8").removesuffix("\n").split(_BETWEEN)
        for file in files("corepress.tokenizing").joinpath("texts").iterdir()
    }
    # Pieces of each kind stand as far apart as their number allows.
    places = [
        ((number + 0.5) / len(pieces), kind, piece)
        for kind, pieces in kinds.items()
        for number, piece in enumerate(pieces)
    ]
    found = [piece for _, _, piece in sorted(places)]
    if count is not None and not 0 <= count <= len(found):
        raise ConfigError(f"there are {len(found)} texts, of which count={count} can't be taken")
    return found[:count]
