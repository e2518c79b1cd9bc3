"""The archive (MAST): which exposures a program has, and their verified raw files."""

# Modules that other packages may import.
__all__ = [
    "attempts",
    "client",
    "download",
    "fetch",
    "headers",
    "held",
    "http",
    "ledger",
    "local",
    "pointing",
    "proxies",
    "query",
    "raw",
    "structure",
    "transfers",
]
