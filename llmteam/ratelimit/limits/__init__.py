"""Where limits are counted: their rules, in memory for one process, in Redis for all."""
