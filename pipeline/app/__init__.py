"""What a user does with an adapter or a study: chat, use, export, compare, doctor."""
