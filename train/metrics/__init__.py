"""Evaluation, and the scores of each task."""
