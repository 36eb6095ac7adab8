"""A finished shard and what stands beside it: Parquet file, card, preview, manifest."""
