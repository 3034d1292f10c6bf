"""Policies with memory, and baselines."""
