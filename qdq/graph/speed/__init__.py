"""Rewrites that make a Q/DQ graph run faster in onnxruntime's CPU provider, one pass per file.

A pass is a function `graph -> how many places it rewrote`, in place. It finds its places by what
the nodes do, never by their names, and leaves alone what it cannot prove. `PASSES` has them all.
"""

from qdq.graph.speed.running import PASSES, SpeedPass, speed_up, speed_up_file, suit_target

__all__ = ["PASSES", "SpeedPass", "speed_up", "speed_up_file", "suit_target"]
