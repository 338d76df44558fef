"""Chat models behind an API: `base` has the records, `client` sends questions, and each dialect has a module."""
