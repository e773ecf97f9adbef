"""Three ways that people come in, each a script that anyone could type."""
