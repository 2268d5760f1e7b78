"""Cutting trained adapters to a lower rank: ``rightrank cut``."""
