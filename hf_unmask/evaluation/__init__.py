"""Evaluation: samplers compared on the same prompts, with the statistics that the comparison needs."""
