"""Measures llmteam beside raw Celery on the same servers: ``python -m bench``."""
