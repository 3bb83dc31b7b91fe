"""Conversations: sessions, messages and files; direct mode."""

from retinue.chat.commands import ChatConversation, Sent, open_session, send_message

__all__ = ["ChatConversation", "Sent", "open_session", "send_message"]
