"""`controlset verify`: a data set against its manifest, and its maps against its images."""
