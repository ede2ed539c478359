"""One HTML page out of records. No torch."""
