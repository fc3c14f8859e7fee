"""The commands, one module each: a dataclass whose fields are the options and whose docstrings are the help.

These modules import neither torch nor other slow packages, so that help and errors appear at once.
"""
