"""Files on disk, in a bucket, on the web; commits that are whole or not at all."""
