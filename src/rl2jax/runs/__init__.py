"""What lies in a run's folder, and agents that are shipped as files."""
