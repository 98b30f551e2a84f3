"""What the process that waits for commands has imported: others' packages, nothing of corepress (`process.py`)."""

# ruff: noqa: F401
import contextlib
import gc

import attrs
import cattrs
import click
import google.protobuf.descriptor_pb2
import google.protobuf.message_factory
import ml_dtypes
import rich.console
import rich.progress
import rich.table
import yaml

# These aren't everywhere installed.
with contextlib.suppress(ImportError):
    import altair
    import jinja2
with contextlib.suppress(ImportError):
    import torch
    import torch._dynamo  # which an optimizer imports

gc.freeze()  # so no command searches all this for garbage
