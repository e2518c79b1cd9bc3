"""A small observatory: sky, detectors, reference files, and the servers that hand them out."""
