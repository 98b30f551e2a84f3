"""Message classes from a compiled schema.

Built at import, and not by generated code, because generated code is tied to one range of protobuf versions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def load_messages(name: str) -> dict[str, Any]:
    """The message classes of the schema of that name in this folder, by name."""
    files = descriptor_pb2.FileDescriptorSet()
    files.ParseFromString((Path(__file__).parent / f"{name}.binpb").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    package = files.file[0].package
    return {
        message.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{message.name}"))
        for message in files.file[0].message_type
    }
