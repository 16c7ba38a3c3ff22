"""The imperative shell (floor 7): clock, poller, loop, dispatcher, recovery."""
