"""Visual navigation (Duan et al. 2016, section 3.3): mazes, their exact JAX twin, and the real ViZDoom."""

from rl2jax.envs.maze.navigation import MazeNavigation

__all__ = ["MazeNavigation"]
