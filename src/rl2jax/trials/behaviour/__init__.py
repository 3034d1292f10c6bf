"""What an agent does, as its field measures it: regret, stay probabilities, fitted learning rates, one-shot choices.

Functions of trajectories alone, so that trained agents and reference agents are measured alike. Those in JAX take one
trial and its task, (trajectory, params), which makes them a `statistic` of `evaluate`; those that fit something are
numpy, take a batch of trials and return numpy.
"""
