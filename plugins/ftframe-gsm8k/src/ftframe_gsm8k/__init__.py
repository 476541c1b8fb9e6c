"""GSM8K for ftframe."""
