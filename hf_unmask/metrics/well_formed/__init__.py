"""The metric ``well_formed``, and beside it, without the ``evaluate`` library, how it judges a text."""
