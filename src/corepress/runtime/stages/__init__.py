"""Pipelines, and the stages that are neither programs nor networks: those that suppress overlapping boxes.

To add a kind of stage: a file here with a function that makes a `Runnable` of its message (`Suppression` is a `Program`
of one step), and its line in `_stage` of `pipeline.py`. Of `runtime`, only `load`, `walk` and `domains` import this.
"""
