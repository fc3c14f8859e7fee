"""Actions of the commands, one module each. A module is imported only when its command runs."""
