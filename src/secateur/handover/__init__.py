"""What is handed over with a model: its lineage, its model card, and the way to the hub."""

from secateur.handover.card import card_files, card_text
from secateur.handover.lineage import Figure, Lineage, read_lineage
from secateur.handover.memory import note_done, save

__all__ = ["Figure", "Lineage", "card_files", "card_text", "note_done", "read_lineage", "save"]
