"""The composition root (floor 9): one file a job; it alone knows all rooms. Each job is a function that prints and returns an exit code."""
