"""What a run on many machines takes: seconds, bytes, machines, money, and what goes wrong."""
