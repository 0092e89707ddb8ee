"""Denoisers: everything that differs between models, and nothing about sampling.

Floor 1: may import no other room. Start in `adapter`, the one calling convention, whose `conventions` are settled once;
in every pass `inputs` makes what the model's forward gets, `head` the logits where they are read, and `caching` keeps
keys and values. `wrappers` sees through what a model is wrapped in, `families` is the table of what each family does
differently, `compat` what its code needs on today's transformers, `texts` turns prompts into batches and tokens into
texts. `values` says for the whole house what a number or an id may be.
"""
