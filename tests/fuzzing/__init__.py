"""Fuzzing beyond bytes: `python -m tests.fuzzing --minutes 5 --seed 0`.

`tests/fuzz.py` damages the bytes of a program and of its weights. Here the damage is done where a reader gets to:
`messages.py` changes protobuf messages after they were decoded (nested blocks, pipelines, values), `texts.py` changes
manifests, configurations and recipes, and the bytes of arrays; `targets.py` holds what each of them is given to: the
whole way from loading over compressing and saving to reloading, and the commands. Either it works, or it is refused
in one sentence; all else is a bug. What ends a run lies in `fuzz-crash/`.
"""
