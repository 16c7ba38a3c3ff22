"""Many possible futures of one book, with and without its runbooks (room `simulation`, floor 5)."""
