"""Processes that compile kernels at once never get each other's code."""

from __future__ import annotations

import os

from numba.core.caching import IndexDataCacheFile

import corepress.weights.kernels  # noqa: F401  (which makes the cache safe)


def test_two_processes_that_save_at_once_keep_their_versions_apart(tmp_path, monkeypatch) -> None:
    one, two = (IndexDataCacheFile(str(tmp_path), "kernel", "stamp") for _ in range(2))
    monkeypatch.setattr(two, "_load_index", dict)  # the second reads the index before the first writes it
    save_data = one._save_data

    def late(name, data):
        """The second does all its work between the first one's writing of the index and of the code."""
        monkeypatch.setattr(os, "getpid", lambda: 2)
        two.save("types of two", "code of two")
        save_data(name, data)

    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(one, "_save_data", late)
    one.save("types of one", "code of one")
    reader = IndexDataCacheFile(str(tmp_path), "kernel", "stamp")
    assert reader.load("types of two") == "code of two"
    assert reader.load("types of one") in (None, "code of one")  # compiled again, if it was lost
