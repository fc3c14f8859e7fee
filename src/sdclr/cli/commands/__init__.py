"""The commands, one module each: a dataclass whose fields are the options and whose docstrings are the help.

These modules import neither torch nor anything else that is slow to load, so that help and errors come at once.
"""
