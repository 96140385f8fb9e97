"""The miniature eight: a small version of each benchmark, in its official file format."""
