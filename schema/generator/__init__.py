"""The generator of everything that follows from schema/: see ../generate.py."""
