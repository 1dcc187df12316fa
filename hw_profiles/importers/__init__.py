"""Measurements of others as rows of the project's table of measurements."""
