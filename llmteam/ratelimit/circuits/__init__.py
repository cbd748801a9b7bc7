"""Where circuits are kept: their rules, in memory for one process, in Redis for all."""
