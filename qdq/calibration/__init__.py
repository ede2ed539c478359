"""Data -> ranges: count what every site sees, then choose."""
