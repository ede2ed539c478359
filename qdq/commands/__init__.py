"""Commands of `qdq`, a file each, and what they share; the command line itself is `qdq.cli`."""
