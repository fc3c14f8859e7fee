"""Collections of images: their sources, their annotations, and the scan for unreadable files."""
