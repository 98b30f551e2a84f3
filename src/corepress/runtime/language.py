"""Whether a model is one of language: which input holds tokens, and where the program looks them up in a table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from corepress.errors import ConfigError
from corepress.formats.features import Interface
from corepress.language import Words
from corepress.runtime.domains import Domain


def words_of(
    interface: Interface, domains: Mapping[str, Domain], tokens: str | None = None, logits: str | None = None
) -> Words | None:
    """What makes a model one of language, or None; `domains`: what is known of its inputs.

    Tokens are whole numbers by which rows of a table are looked up; of several such inputs those of the largest table.
    `tokens`, `logits`: the names of the input and of the output, where they are not to be found. Raises ConfigError
    for names that the model does not have, and for `logits` where no input holds tokens.
    """
    whole = [feature.name for feature in interface.inputs if np.issubdtype(feature.dtype, np.integer)]
    rows = {name: domain.high + 1 for name, domain in domains.items() if domain.kind == "index"}
    names = {feature.name for feature in interface.inputs}
    if tokens is not None and tokens not in names:
        raise ConfigError(f"there is no input {tokens!r}, but {', '.join(sorted(names)) or 'none'}")
    outputs = [feature.name for feature in interface.outputs]
    if logits is not None and logits not in outputs:
        raise ConfigError(f"there is no output {logits!r}, but {', '.join(outputs)}")
    found = tokens or max((name for name in whole if name in rows), key=lambda name: rows[name], default=None)
    if found is None:
        if logits is not None:
            raise ConfigError(f"no input is known to hold tokens, of which {logits!r} would have the logits: name it")
        return None
    masks = tuple(name for name, domain in domains.items() if domain.kind == "mask")
    return Words(found, int(rows.get(found, 0)), logits, masks)
