"""qdq: a trained PyTorch model into INT8 that is accurate, runs in integers, and shows it.

The names below are the public face; each loads its module when it is first used.
"""
