"""Results: what the files of an evaluation hold, and everything that can be computed from them alone. No torch.

Floor 1: may import no other room. Start in `records`, which reads and writes the files, and `spec_text`, how samplers
are named in them; the other files say by their names what they compute.
"""
