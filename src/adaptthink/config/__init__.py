"""Settings: schemas, recipes, and how their values come together."""
