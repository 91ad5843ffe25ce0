"""Regularisers: what is added to a tag localizer so that it sees more than the easiest part."""
