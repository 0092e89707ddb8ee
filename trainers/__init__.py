"""Training: the problems of the embedded environment. Needs ``pip install hf_unmask[train]``."""
