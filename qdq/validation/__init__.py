"""Any two runners compared: accuracy, agreement, distance, size and latency."""
