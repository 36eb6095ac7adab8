"""Pixels on their way in: what a file is, its decoding, its colours, its crop, its encoding."""
