"""Trained agents at other lengths of a trial, at other priors and with fewer arms, beside the best reference agent."""
