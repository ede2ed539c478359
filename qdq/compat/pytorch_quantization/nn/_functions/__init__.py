"""What quantized recurrent layers compute."""
