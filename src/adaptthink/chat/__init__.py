"""Chat models behind an API: `base` the records, `client` asks, one module for each dialect; text in, text out."""
