"""Scripts that print the figures which the README and the model cards quote."""
