"""Limits shared by all workers: how many calls a resource takes, and when it is left alone for a while."""
