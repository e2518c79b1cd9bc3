"""The archive (MAST): which exposures a program has, and their verified raw files."""

# Modules that other packages may import.
__all__ = ["fetch", "held", "ledger", "local", "query", "raw", "replies", "structure", "transfer"]
