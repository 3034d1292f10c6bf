"""What one trial is, how it is played, and what is measured of it."""
