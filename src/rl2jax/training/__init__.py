"""What is trained, by which settings, and the loop that trains it."""
