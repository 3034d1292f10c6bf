"""Rows of results, and what makes them."""
