"""Distributed reduction of JWST imaging surveys, from a program number to science-ready mosaics."""

__version__ = "0.1.0"
