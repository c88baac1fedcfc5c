"""Flask blueprints: HTTP to calls and back, without logic of their own."""
