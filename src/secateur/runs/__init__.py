"""A recipe being run: the recipe, its stages, the run directory, figures, sweeps; and the single steps."""
