"""The protobuf messages of `schema.proto`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corepress.mlprogram.schema import load_messages

# Message classes are made at run time, so their static type is Any.
Model: Any = load_messages(Path(__file__).parent / "schema.binpb")["Model"]
