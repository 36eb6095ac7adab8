"""The judge: numbers that say whether a picture obeys its condition."""
