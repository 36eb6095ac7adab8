"""One module a command; each has `run(arguments) -> exit status` and imports what it needs late."""
