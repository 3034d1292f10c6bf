"""Trials that are played on the host, by engines that are no part of JAX."""
