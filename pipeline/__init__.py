"""Verbs: list, read, decode, annotate, caption, assemble, write, verify, inspect."""
