"""How long files take: in turn, by medians of paired ratios; and a machine's costs from it."""
