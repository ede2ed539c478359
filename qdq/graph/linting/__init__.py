"""Judging anyone's Q/DQ file by the rules of a runtime, and mending what can be mended exactly."""
