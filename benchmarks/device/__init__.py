"""One run of a few minutes on any device: what is checked there, and one benchmark of each kind."""
