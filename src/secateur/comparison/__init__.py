"""Results of several measurements, read back and put side by side."""
