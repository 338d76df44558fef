"""The dialects: each reads bodies into exchanges, and writes their events in its own format."""
