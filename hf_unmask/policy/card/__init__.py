"""Model cards: rendered from what is recorded, and read back from what others published.

Part of the room `policy`; also reads `results`. Start in `rendering`; `measured` is what an evaluation found about a
policy, `published_results` what a card claims, `metadata` how that is read, `seal` what a push fills in and how an
edited card is told.
"""

from hf_unmask.policy.card.metadata import retagged
from hf_unmask.policy.card.rendering import folder_card, read_recipe, render_card

__all__ = ["folder_card", "read_recipe", "render_card", "retagged"]
