"""What a table needs is trained, played and written, as much of it as is not done yet."""
