"""Commands that are killed at their changes to the file system: the old result or the new one, nothing left over."""
