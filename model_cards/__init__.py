"""Model cards: the template of policies, and the card of the embedded model. Installed as ``hf_unmask.model_cards``."""
