"""What the commands do, one module each. A module is imported when its command runs, and only then."""
