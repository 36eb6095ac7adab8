"""Where the graph can run beside this machine: Dataflow, Flink, Spark."""
