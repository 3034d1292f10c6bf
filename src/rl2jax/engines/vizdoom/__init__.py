"""Mazes in the real ViZDoom."""
