"""Localizers that work from points and scribbles: a few pixels whose class is known."""
