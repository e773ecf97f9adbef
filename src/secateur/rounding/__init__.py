"""Rounding weights to a grid of a few bits: the grid and its scales, GPTQ, the halves of layers; for every cut."""
