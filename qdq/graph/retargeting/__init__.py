"""One target's Q/DQ file rewritten into another's form."""
