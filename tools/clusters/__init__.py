"""Real clusters on this machine: Flink and Spark, with Beam's job servers for them."""
