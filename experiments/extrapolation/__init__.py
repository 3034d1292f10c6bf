"""Trained agents at other lengths of a trial, priors and numbers of arms, beside the best reference agent."""
