"""The command line ``llmteam``."""
