"""What a model file may be made of, decided from its bytes before any runtime sees them."""
