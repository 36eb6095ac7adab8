"""Nouns: what a reference, an image, a triple, a shard and a data set are. Imports none of ours."""
