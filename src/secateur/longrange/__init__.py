"""Block-sparse attention learned in training, on the Long Range Arena."""
