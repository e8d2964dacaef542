"""Denoising elsewhere: what travels, the user's side, the endpoint, and what runs inside its workers."""
