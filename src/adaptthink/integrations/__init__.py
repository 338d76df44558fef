"""Doors from other projects into this one, a file each. Nothing here is imported by the rest of the package."""
