"""A trained model's decisions on recordings, as they were measured."""
