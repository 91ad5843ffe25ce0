"""The hot loops, array in, array out: they know neither files nor recipes."""
