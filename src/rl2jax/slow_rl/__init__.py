"""The slow reinforcement learning algorithms, and the mathematics under them."""
