"""Denoisers: everything that differs between models, and nothing about sampling.

Floor 1: may import no other room. Start in `adapter`, the one calling convention; `families` is the table of what each
family does differently, `compat` what its code needs on today's transformers.
"""
