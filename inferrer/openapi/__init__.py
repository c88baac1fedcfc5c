"""The API as OpenAPI 3.1: one document of every route, and one for each model from its signature. Pure."""
