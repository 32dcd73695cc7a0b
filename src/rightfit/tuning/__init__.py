"""What a search tries next and what it makes of what it saw: plain decisions, which train nothing themselves."""
