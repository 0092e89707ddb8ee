"""Other people's programs with our samplers inside. One module per program; none is imported unless asked for."""
