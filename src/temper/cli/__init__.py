"""The commands: they read the call, hand it on, and say how it went."""
