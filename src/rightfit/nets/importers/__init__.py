"""Weights from other libraries, name by name and shape by shape: a file in, our weights out.

`files.py` reads a file into named arrays, one module a naming scheme translates them, and
`core.py` checks that nothing is missing, left over or of another shape.
"""
