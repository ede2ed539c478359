"""What each stage leaves behind: frozen dataclasses, JSON in and out, no torch."""
