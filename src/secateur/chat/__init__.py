"""Talking with a model: its chat template, the history, the answer word by word, two models side by side."""

from secateur.chat.config import ChatConfig
from secateur.chat.conversation import Answer, Conversation

__all__ = ["Answer", "ChatConfig", "Conversation"]
