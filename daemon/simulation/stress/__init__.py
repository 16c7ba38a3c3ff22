"""Many futures of one book (floor 5): worlds, paths, the book on each of them with and without runbooks, and what it comes to."""
