"""Breaks things under load and looks whether anything was lost or done twice: ``python -m chaos``."""
