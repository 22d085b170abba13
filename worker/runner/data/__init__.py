"""Data: where they come from, which samples are held out, how they are scaled."""
