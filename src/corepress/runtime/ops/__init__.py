"""One file for each page of the MIL operations documentation."""
