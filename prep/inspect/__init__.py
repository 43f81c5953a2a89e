"""Inspection of a cache: tables, sample rows, the report, predicted memory of training."""
