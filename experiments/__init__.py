"""Experiments: constants and a main() each; thin."""
