"""The archive: which exposures exist, and their verified files."""
