"""Text classification for ftframe."""
