"""Models that write captions, and what their words have to be."""
