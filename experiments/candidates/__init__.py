"""Candidates for a training recipe beyond the paper's, each at equal CPU time. See docs/appendix_recipes.md."""
