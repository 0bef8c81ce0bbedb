"""Metrics: numbers about samples with the protocol they were measured under."""
