"""Codecs: bytes of a protocol to named arrays, and back."""
