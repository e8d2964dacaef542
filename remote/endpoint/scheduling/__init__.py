"""Which job runs where and when, and how each comes to an end."""
