"""Files that secateur reads, damaged by chance: each must be read, or refused in one line, soon.

`cd tests && python -m fuzz --help`; `make fuzz` runs all of it. A further kind of file is one entry in `kinds.py`.
"""
