"""Files that secateur reads, damaged by chance: each must be read, or refused in one line, soon.

`make fuzz` runs all of it; `cd tests && python -m fuzz --help` says how to run a part. A further kind of file is one
entry in `kinds.py`.
"""
