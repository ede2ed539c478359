"""Float model -> model with quantizers: fusing, recording, replacing, switches, checkpoints."""
