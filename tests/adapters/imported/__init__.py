"""Two files of a stranger's package: one imports a function of the other by name."""
