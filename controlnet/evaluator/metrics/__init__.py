"""What the scores are made of: one file a metric."""
