"""Stages of pipelines, and pipelines."""
